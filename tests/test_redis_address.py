"""What a shard's URL says: every form, every mistake, and never the password in a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_fanout.redis_address import Address, BadURL, Location, parse
from support.certificates import write_certificate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With a certificate and its key."""
    path = tmp_path_factory.mktemp("tls")
    write_certificate(path)
    return str(path)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", Address("host", 6379)),
        ("redis://host:7000/3", Address("host", 7000, db=3)),
        ("redis://host?db=3", Address("host", 6379, db=3)),
        ("redis://", Address("127.0.0.1", 6379)),
        ("redis://:7000", Address("127.0.0.1", 7000)),
        ("redis://[::1]:7000", Address("::1", 7000)),
        ("redis://HOST", Address("host", 6379)),
        ("redis://:sesame@host", Address("host", 6379, password="sesame")),
        ("redis://me:sesame@host", Address("host", 6379, username="me", password="sesame")),
        ("redis://m%65:a%40%3A%2Fb@host", Address("host", 6379, username="me", password="a@:/b")),
        ("redis://:a@b@host", Address("host", 6379, password="a@b")),
        ("unix:///run/redis.sock", Address("", 0, "/run/redis.sock")),
        ("unix:///run/a%20b.sock?db=2", Address("", 0, "/run/a b.sock", 2)),
        (
            "unix://me:sesame@/run/redis.sock",
            Address("", 0, "/run/redis.sock", username="me", password="sesame"),
        ),
    ],
)
def test_a_url_names_one_server(url: str, address: Address) -> None:
    kind, _, addresses, service, login = parse(url)
    assert (kind, addresses, service, login) == ("server", (address,), "", ("", ""))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://host", "host:6379/0"),
        ("redis://:sesame@host:7000/3", "host:7000/3"),
        ("redis://host/3?name=blue", "blue"),
        ("redis://host?name=", "host:6379/0"),
        ("unix:///run/redis.sock", "/run/redis.sock/0"),
        ("unix:///run/redis.sock?name=blue", "blue"),
        ("redis+sentinel://host/orders", "orders/0"),
        ("redis+sentinel://host/orders/2", "orders/2"),
        ("redis+sentinel://host/orders?name=blue", "blue"),
        ("redis+cluster://host,host2", "host:6379/0"),
    ],
)
def test_a_shard_has_a_name(url: str, name: str) -> None:
    """It decides where topics are: to change how it is made moves them."""
    assert parse(url).name == name


def test_sentinels_name_the_primary_of_a_service() -> None:
    assert parse(
        "redis+sentinel://me:sesame@a,b:26380,c/orders/2?sentinel_username=s&sentinel_password=p"
    ) == Location(
        "sentinel",
        "orders/2",
        (
            Address("a", 26379, "", 2, "me", "sesame"),
            Address("b", 26380, "", 2, "me", "sesame"),
            Address("c", 26379, "", 2, "me", "sesame"),
        ),
        "orders",
        ("s", "p"),
    )


def test_any_nodes_of_a_cluster_are_named() -> None:
    assert parse("redis+cluster://:sesame@a:7000,b") == Location(
        "cluster",
        "a:7000/0",
        (Address("a", 7000, password="sesame"), Address("b", 6379, password="sesame")),
    )


@pytest.mark.parametrize("kind", ["rediss://a", "rediss+sentinel://a/s", "rediss+cluster://a"])
def test_tls_is_verified_with_the_authorities_that_are_given(kind: str, folder: str) -> None:
    [address] = parse(f"{kind}?ssl_ca_certs={folder}/certificate.pem").addresses
    assert address.tls is not None
    assert address.tls.check_hostname
    assert address.tls.verify_mode.name == "CERT_REQUIRED"
    assert len(address.tls.get_ca_certs()) == 1


def test_a_certificate_may_name_no_host_but_must_be_vouched_for(folder: str) -> None:
    url = f"rediss://a?ssl_ca_certs={folder}/certificate.pem&ssl_check_hostname=false"
    context = parse(url).addresses[0].tls
    assert context is not None
    assert not context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_we_may_have_a_certificate_too(folder: str) -> None:
    files = f"ssl_certfile={folder}/certificate.pem&ssl_keyfile={folder}/key.pem"
    assert parse(f"rediss://a?{files}").addresses[0].tls is not None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "the scheme is not one of"),
        ("host:6379", "the scheme is not one of"),
        ("http://host", "the scheme is not one of"),
        ("redis+magic://host", "the scheme is not one of"),
        ("unix+cluster:///run/redis.sock", "the scheme is not one of"),
        ("redis://host:x", "a port that is not one"),
        ("redis://host:0", "a port that is not one"),
        ("redis://host:70000", "a port that is not one"),
        ("redis://[::1", "is not a URL"),
        ("redis://a..b", "a host that is not one"),
        ("redis://host/x", "the database is not a number"),
        ("redis://host/-1", "the database is not a number"),
        ("redis://host/²", "the database is not a number"),
        ("redis://host?db=x", "the database is not a number"),
        (f"redis://host/{'1' * 5000}", "the database is not a number"),
        ("unix:///run/redis.sock?db=x", "the database is not a number"),
        ("redis://host/0/1", "the path has too many parts"),
        ("redis+sentinel://host/orders/0/1", "the path has too many parts"),
        ("redis+sentinel://host", "ends with the service's name"),
        ("redis+cluster://host/1", "no database but 0"),
        ("redis://a,b", "names several hosts"),
        ("redis+cluster://a,,b", "one of its hosts has no name"),
        ("redis+sentinel://a,/orders", "one of its hosts has no name"),
        ("unix://", "has no path"),
        ("unix://run/redis.sock", "names no host"),
        ("redis://:12#34@host", "has a # in it"),
        ("redis://host?nmae=blue", "unknown option ?nmae=; known are db, name, "),
        ("redis://host?ssl_ca_certs=/ca.pem", "needs TLS"),
        ("redis+cluster://host?ssl_check_hostname=false", "needs TLS"),
        ("unix:///run/redis.sock?ssl_ca_certs=/ca.pem", "needs TLS"),
        ("redis://host?sentinel_password=p", "is for Sentinels"),
        ("rediss://host?ssl_check_hostname=no", "ssl_check_hostname is true or false"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "its certificates cannot be loaded"),
        ("rediss://host?ssl_keyfile=/key.pem", "needs ?ssl_certfile="),
    ],
)
def test_a_mistake_is_told(url: str, why: str) -> None:
    with pytest.raises(BadURL) as refused:
        parse(url)
    assert why in str(refused.value)


def test_a_file_that_is_no_certificate_is_told(folder: str) -> None:
    with pytest.raises(BadURL, match="its certificates cannot be loaded"):
        parse(f"rediss://host?ssl_ca_certs={folder}/key.pem")


@given(st.text(max_size=30) | st.text("redis+clunx:/@,?#[]0=1.%", max_size=40))
def test_whatever_stands_there_is_read_or_refused(url: str) -> None:
    for prefix in ("", "redis://", "redis+cluster://", "redis+sentinel://", "unix://"):
        try:
            location = parse(prefix + url)
        except BadURL:
            continue
        assert location.addresses


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sesame@host",
        "redis://sesame:sesame@host/x",
        "redis://:sesame@host:x",
        "redis://:12#sesame@host",
        "redis+sentinel://host/s?sentinel_password=sesame",
        "http://:sesame@host",
        "unix://:sesame@run/redis.sock",
    ],
)
def test_nothing_that_is_shown_has_a_password_in_it(url: str) -> None:
    try:
        location = parse(url)
    except BadURL as error:
        shown = str(error)
    else:
        [address] = location.addresses
        shown = f"{address} {address!r} {location} {location.name}"
    assert "sesame" not in shown


def test_the_same_login_is_used_elsewhere() -> None:
    address = Address("a", 1, "", 2, "me", "sesame").at("b", 3)
    assert address == Address("b", 3, "", 2, "me", "sesame")
    assert str(address) == "b:3"
    assert str(Address("", 0, "/run/redis.sock")) == "/run/redis.sock"
