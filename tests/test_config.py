"""Reading a configuration: what goes before what, and that nothing wrong passes or is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

import clarion_server
from clarion_server.auth.keyset import SECRET_BYTES
from clarion_server.config import Config, ConfigError, Mistake, Namespace, interpret, load, read
from clarion_server.option_values import HIDDEN, Option, catalogue
from clarion_server.options import ALGORITHMS, AuthOptions, KeyOptions

SECRET = "0123456789abcdef0123456789abcdef"
API_KEY = "k" * 16
PRODUCTION: dict[str, object] = {"api_keys": [API_KEY], "auth": {"secret": SECRET}}
OPTIONS = {option.key: option for option in catalogue(Config)}

Tables = Mapping[str, object]


def production(**tables: object) -> dict[str, object]:
    """A configuration that is good but for what `tables` change."""
    return PRODUCTION | tables


def mistakes(
    tables: Tables | None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> list[Mistake]:
    with pytest.raises(ConfigError) as caught:
        interpret(tables, "clarion.toml", environ or {}, flags or {})
    return list(caught.value.mistakes)


def only_mistake(
    tables: Tables | None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Mistake:
    [mistake] = mistakes(tables, environ, flags)
    return mistake


# What is in force


def test_without_a_file_the_server_is_open_and_local() -> None:
    config = load(None, {}, {})
    assert config.development
    assert config.auth.anonymous
    assert config.host == config.api_host == "127.0.0.1"
    assert config.namespace("news") == Namespace(
        history_size=100,
        history_s=300,
        subscribe="everyone",
        publish="everyone",
        presence="members",
    )


def test_with_a_file_nothing_is_open_that_it_does_not_open(tmp_path: Path) -> None:
    file = tmp_path / "clarion.toml"
    file.write_text(f'api_keys = ["{API_KEY}"]\n[auth]\nsecret = "{SECRET}"\n')
    config = load(str(file), {}, {})
    assert not config.development
    assert not config.auth.anonymous
    assert config.namespaces == {"default": Namespace()}
    assert config.namespace("news").subscribe == "granted"


def test_a_file_is_an_override_of_development_defaults_not_their_end() -> None:
    tables = {"development": True, "namespaces": {"default": {"history_size": 5}}}
    config = interpret(tables, "clarion.toml", {}, {}).config
    assert config.namespace("news").history_size == 5
    assert config.namespace("news").publish == "everyone"


def test_flags_go_before_environment_before_file_before_defaults() -> None:
    tables = production(port=1, api_port=2, host="::1")
    environ = {"CLARION_PORT": "3", "CLARION_API_PORT": "4"}
    loaded = interpret(tables, "clarion.toml", environ, {"port": "5", "api_host": None})
    config = loaded.config
    assert (config.port, config.api_port, config.host, config.workers) == (5, 4, "::1", 1)
    assert loaded.sources["port"] == "--port"
    assert loaded.sources["api_port"] == "CLARION_API_PORT"
    assert loaded.sources["host"] == "clarion.toml"
    assert "workers" not in loaded.sources


def test_the_file_is_found_through_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "clarion.toml"
    file.write_text("development = true\nport = 9000\n")
    assert load(None, {"CLARION_CONFIG": str(file)}, {}).port == 9000


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("CLARION_LIMITS_MESSAGE_BYTES", "1024", "limits.message_bytes", 1024),
        ("CLARION_KEEPALIVE_PING_S", " 0.5 ", "keepalive.ping_s", 0.5),
        ("CLARION_AUTH_SECRET", SECRET, "auth.secret", SECRET),
        ("CLARION_API_KEYS", f"{API_KEY}, {API_KEY}2,", "api_keys", (API_KEY, f"{API_KEY}2")),
        ("CLARION_ORIGINS", "*", "origins", ("*",)),
        ("CLARION_AUTH_ALGORITHMS", "ES256,HS256", "auth.algorithms", ("ES256", "HS256")),
        ("CLARION_LOG_LEVEL", "debug", "log_level", "debug"),
        ("CLARION_ECHO", "Yes", "echo", True),
        ("CLARION_AUTH_ANONYMOUS", "0", "auth.anonymous", False),
        ("CLARION_PORT", "", "port", 8000),
    ],
)
def test_environment_variables_are_read_as_their_options_type(
    variable: str, text: str, key: str, value: object
) -> None:
    found: object = load(None, {variable: text}, {})
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    "tables",
    [
        PRODUCTION,
        production(port=0, api_port=0),
        production(host="0.0.0.0", api_host="10.0.0.1"),
        production(host="127.0.0.1", port=8001, api_host="127.0.0.2"),
        production(origins=["*", "http://localhost:3000", "https://a.example", "http://[::1]:81"]),
        production(auth={"anonymous": True}),
        production(auth={"jwks_url": "https://issuer.example/keys"}),
        production(auth={"jwks_url": "http://127.0.0.1:9/keys"}),
        production(namespaces={"a.b-c_1": {"history_size": 0, "history_s": 0}}),
        production(keepalive={"ping_s": 10, "pong_s": 0.5}),
        {"development": True, "echo": True, "host": "localhost", "api_host": "::1"},
    ],
)
def test_a_good_configuration_passes(tables: Tables) -> None:
    assert isinstance(interpret(tables, "clarion.toml", {}, {}).config, Config)


def test_a_topic_has_the_options_of_its_namespace_or_of_the_default_one() -> None:
    orders, default = Namespace(history_size=3), Namespace(subscribe="everyone")
    config = Config(namespaces={"orders": orders, "default": default})
    assert config.namespace("orders:42") is orders
    for topic in ("orders", "order:42", "news", "a:b:c", ":", "default:x"):
        assert config.namespace(topic) is default


def test_a_config_made_by_hand_needs_no_namespace() -> None:
    assert Config(namespaces={}).namespace("news") == Namespace()


# What is wrong


@pytest.mark.parametrize(
    ("tables", "key", "says"),
    [
        (production(prot=1), "prot", "did you mean port?"),
        (production(limits={"mesage_bytes": 1}), "limits.mesage_bytes", "mean message_bytes?"),
        (production(message_bytes=1), "message_bytes", "mean message_bytes in [limits]?"),
        (production(limits={"workers": 1}), "limits.workers", "workers at the top, before"),
        (production(zzz={"a": 1}), "zzz", "there is no such option"),
        (production(namespaces={"a": {"histry_size": 1}}), "namespaces.a.histry_size", "history_s"),
        (production(port="80"), "port", 'is "80"; expected a whole number, 0 to 65535'),
        (production(port=65_536), "port", "is 65536"),
        (production(port=-1), "port", "is -1"),
        (production(port=True), "port", "is true"),
        (production(port=8.5), "port", "is 8.5"),
        (production(port=2**20_000), "port", "is far too large"),
        (production(port={"a": 1}), "port", "is a table"),
        (production(echo="no"), "echo", "expected true or false"),
        (production(host=["a"]), "host", "is a list"),
        (production(host="a\nb"), "host", "has control characters"),
        (production(host=""), "host", "is empty"),
        (production(origins="*"), "origins", 'is "*"; expected a list of texts'),
        (production(origins=["*", 1]), "origins", "is 1"),
        (production(log_level="loud"), "log_level", 'one of "debug", "info", "warning", "error"'),
        (production(keepalive={"ping_s": float("nan")}), "keepalive.ping_s", "is NaN"),
        (production(keepalive={"ping_s": float("inf")}), "keepalive.ping_s", "is Infinity"),
        (production(keepalive={"ping_s": 0}), "keepalive.ping_s", "seconds, 0.01 to 3600"),
        (production(limits=3), "limits", "is not a table; expected [limits]"),
        (production(namespaces=[]), "namespaces", "is not a table"),
        (production(namespaces={"a": 1}), "namespaces.a", "is not a table"),
        (production(namespaces={"a b": {}}), 'namespaces."a b"', "not the name of a namespace"),
        (production(namespaces={"a:": {}}), 'namespaces."a:"', "not the name of a namespace"),
        (production(namespaces={"": {}}), 'namespaces.""', "not the name of a namespace"),
        (production(namespaces={"a": {"publish": "all"}}), "namespaces.a.publish", '"everyone"'),
        (
            production(namespaces={"a": {"history_size": 1, "history_s": 0}}),
            "namespaces.a.history_s",
            "none of 1 publications",
        ),
        (production(port=8001), "api_port", "so is port"),
        (production(port=8001, host="0.0.0.0"), "api_port", "so is port"),
        (production(port=8001, api_host="::"), "api_port", "so is port"),
        (production(echo=True), "echo", "for development only"),
        (production(prefix="a:b"), "prefix", "1 to 64 of A-Z"),
        (production(window={"bytes": 1024}), "window.bytes", "one publication may have 65536"),
        (production(window={"messages": 0}), "window.messages", "1 to 100000000"),
        (production(namespaces={"a": {"slow": "wait"}}), "namespaces.a.slow", '"drop_oldest"'),
        (
            production(namespaces={"a": {"slow": "resync"}}),
            "namespaces.a.slow",
            "no history to resume from",
        ),
        (
            production(namespaces={"a": {"slow_bytes": 1_048_577}}),
            "namespaces.a.slow_bytes",
            "in all only 1048576 may wait",
        ),
        (
            production(namespaces={"a": {"slow_messages": 5}}, window={"messages": 4}),
            "namespaces.a.slow_messages",
            "in all only 4 may wait",
        ),
        (production(limits={"body_bytes": 1024}), "limits.body_bytes", "publication may have"),
        ({"development": True, "host": "0.0.0.0"}, "host", "development mode is open"),
        ({"development": True, "api_host": "192.168.0.1"}, "api_host", "development mode is open"),
        ({"development": True, "host": "example.com"}, "host", "development mode is open"),
        ({"auth": {"secret": SECRET}}, "api_keys", "nobody could publish"),
        ({"api_keys": [API_KEY]}, "auth", "nobody could connect"),
        (production(api_keys=["short"]), "api_keys", "key number 1 has 5 characters"),
        (production(api_keys=["ü" * 16]), "api_keys", "does not fit an HTTP header"),
        (production(api_keys=[SECRET + " x"]), "api_keys", "does not fit an HTTP header"),
        (production(api_keys=[17]), "api_keys", "is not a text but int"),
        (production(redis=["redis://a", "redis+cluster://b"]), "redis", "one of them of a cluster"),
        (production(redis=["redis://a", "redis://a:6379"]), "redis", 'the shard "a:6379/0" twice'),
        (production(redis=["redis://a/x"]), "redis", "URL number 1: the database is not a number"),
    ],
)
def test_a_mistake_is_reported_with_its_place(tables: Tables, key: str, says: str) -> None:
    mistake = only_mistake(tables)
    assert mistake.source == "clarion.toml"
    assert mistake.key == key
    assert says in str(mistake)


@pytest.mark.parametrize(
    "origin",
    [
        "a.example",
        "https://a.example/",
        "https://a.example/x",
        "https://a.example:",
        "https://a.example:99999x",
        "https://*.example",
        "https://user@a.example",
        "https://",
        "null",
        "",
        "https://a.example https://b.example",
    ],
)
def test_what_is_not_an_origin_is_refused(origin: str) -> None:
    assert only_mistake(production(origins=[origin])).key == "origins"


def test_an_origin_with_the_default_port_could_never_match() -> None:
    mistake = only_mistake(production(origins=["https://a.example:443"]))
    assert mistake.expected == '"https://a.example"'


@pytest.mark.parametrize("network", ["10.0.0.1/8", "balancer", "10.0.0.0/33", ""])
def test_a_proxy_is_a_network(network: str) -> None:
    mistake = only_mistake(production(proxies=["10.0.0.0/8", network]))
    assert (mistake.key, repr(network) in mistake.problem) == ("proxies", True)


def test_the_proxy_protocol_needs_proxies_to_believe() -> None:
    assert only_mistake(production(proxy_protocol=True)).key == "proxy_protocol"
    assert interpret(
        production(proxy_protocol=True, proxies=["::1", "10.0.0.0/8"]), "clarion.toml", {}, {}
    )


def test_readiness_does_not_end_before_newcomers_are_refused() -> None:
    mistake = only_mistake(production(admission={"lag_s": 1, "unready_lag_s": 0.5}))
    assert mistake.key == "admission.unready_lag_s"


@pytest.mark.parametrize(
    ("auth", "key", "says"),
    [
        ({"secret": "x" * 31}, "auth.secret", "31 bytes; HS256 needs at least 32"),
        ({"keys": {}}, "auth.keys", "expected [[auth.keys]]"),
        ({"keys": [1]}, "auth.keys[0]", "is not a table"),
        ({"keys": [{}]}, "auth.keys[0]", "has no key"),
        ({"keys": [{"scret": SECRET}]}, "auth.keys[0].scret", "did you mean secret?"),
        (
            {"keys": [{"secret": SECRET, "secret_file": "x"}]},
            "auth.keys[0]",
            "has secret and secret_file; expected exactly one",
        ),
        ({"keys": [{"secret": "x" * 31}]}, "auth.keys[0].secret", "needs at least 32"),
        (
            {"keys": [{"secret": "x" * 63, "algorithm": "HS512"}]},
            "auth.keys[0].secret",
            "needs at least 64",
        ),
        (
            {"keys": [{"secret": SECRET, "algorithm": "none"}]},
            "auth.keys[0].algorithm",
            'is "none"; expected one of "HS256"',
        ),
        (
            {"keys": [{"secret": SECRET, "algorithm": "ES256"}]},
            "auth.keys[0].secret",
            "does not go with ES256; expected public_key_file",
        ),
        (
            {"keys": [{"public_key_file": "x", "algorithm": "HS256"}]},
            "auth.keys[0].public_key_file",
            "does not go with HS256; expected secret or secret_file",
        ),
        ({"keys": [{"secret_file": "none"}]}, "auth.keys[0].secret_file", "no such file"),
        (
            {"keys": [{"public_key_file": "none", "algorithm": "RS256"}]},
            "auth.keys[0].public_key_file",
            "no such file",
        ),
        (
            {"keys": [{"kid": "a", "secret": SECRET}, {"kid": "a", "secret": SECRET}]},
            "auth.keys[1].kid",
            "another key for HS256 with the kid 'a'",
        ),
        ({"secret": SECRET, "keys": [{"secret": SECRET}]}, "auth.keys[0].kid", "another key"),
        (
            {"algorithms": ["ES256"], "keys": [{"secret": SECRET}]},
            "auth.keys[0].algorithm",
            "HS256 is not in auth.algorithms",
        ),
        ({"secret": SECRET, "algorithms": []}, "auth.algorithms", "no token would be accepted"),
        ({"secret": SECRET, "algorithms": ["none"]}, "auth.algorithms", 'is "none"'),
        ({"secret": SECRET, "publish_claim": ""}, "auth.publish_claim", "is empty"),
        ({"jwks_file": "none"}, "auth.jwks_file", "no such file"),
        ({"jwks_url": "http://issuer.example/keys"}, "auth.jwks_url", "is not https"),
        ({"jwks_url": "https:///keys"}, "auth.jwks_url", "is not https"),
        ({"jwks_url": "file:///etc/keys"}, "auth.jwks_url", "is not https"),
        ({"jwks_url": "https://[::1/keys"}, "auth.jwks_url", "is not a URL"),
        ({"jwks_url": "https://a:b@issuer.example/"}, "auth.jwks_url", "user name or password"),
    ],
)
def test_a_mistake_in_auth_is_reported_with_its_place(auth: Tables, key: str, says: str) -> None:
    mistake = only_mistake(production(auth=auth))
    assert mistake.key == key
    assert says in str(mistake)


def test_workers_need_redis() -> None:
    (mistake,) = mistakes(None, flags={"workers": "4"})
    assert (mistake.source, mistake.key) == ("--workers", "workers")
    assert "--redis redis://127.0.0.1:6379/0" in mistake.expected
    assert "carries publications between the workers" in mistake.problem


def test_a_url_that_is_not_of_redis_is_refused_without_showing_its_password() -> None:
    (mistake,) = mistakes(None, flags={"redis": ["http://u:hunter2@h"]})
    assert "URL number 1: the scheme is not one of" in mistake.problem
    assert "hunter2" not in str(mistake)


@pytest.mark.parametrize(
    ("environ", "key", "says"),
    [
        ({"CLARION_PORT": "x"}, "port", 'is "x"'),
        ({"CLARION_PORT": "9" * 5000}, "port", 'is "999'),
        ({"CLARION_PORT": "70000"}, "port", "0 to 65535"),
        ({"CLARION_PORT": "tcp://10.0.0.1:8000"}, "port", "Kubernetes"),
        ({"CLARION_ECHO": "maybe"}, "echo", "true or false"),
        ({"CLARION_KEEPALIVE_PING_S": "nan"}, "keepalive.ping_s", 'is "nan"'),
        ({"CLARION_LOG_LEVEL": "loud"}, "log_level", 'one of "debug"'),
        ({"CLARION_AUTH_ALGORITHMS": "HS256,none"}, "auth.algorithms", 'is "none"'),
        ({"CLARION_HOST": "\udcff"}, "host", "is not valid UTF-8"),
        ({"CLARION_PROT": "1"}, "", "did you mean CLARION_PORT?"),
        ({"CLARION_REDIS_URL": "redis://x"}, "", "did you mean CLARION_REDIS?"),
        ({"CLARION_HOST": "0.0.0.0"}, "host", "development mode"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    environ: Mapping[str, str], key: str, says: str
) -> None:
    mistake = only_mistake(None, environ)
    assert mistake.source in environ
    assert mistake.key == key
    assert says in str(mistake)


def test_variables_that_others_set_are_no_mistake() -> None:
    loaded = interpret(
        None,
        "",
        {
            "CLARION_SERVICE_HOST": "10.0.0.1",
            "CLARION_SERVICE_PORT_HTTP": "8000",
            "CLARION_PORT_8000_TCP_ADDR": "10.0.0.1",
            "CLARION_TOKEN": "x",
            "CLARION_BUILD": "7",
            "PATH": "/bin",
        },
        {},
    )
    assert loaded.warnings == ("CLARION_BUILD is not a variable of Clarion's; it is ignored.",)


def test_a_mistake_in_a_flag_names_the_flag() -> None:
    assert only_mistake(None, flags={"api_port": "many"}).source == "--api-port"


def test_all_mistakes_are_reported_at_once() -> None:
    tables = production(prot=1, limits={"batch": 0}, origins=["x"], window={"bytes": 1024})
    found = mistakes(tables, {"CLARION_API_PORT": "x"}, {"workers": "y"})
    assert [(mistake.source, mistake.key) for mistake in found] == [
        ("clarion.toml", "prot"),
        ("clarion.toml", "limits.batch"),
        ("CLARION_API_PORT", "api_port"),
        ("--workers", "workers"),
        ("clarion.toml", "origins"),
        ("clarion.toml", "window.bytes"),
    ]


def test_a_mistake_does_not_cause_reports_of_its_consequences() -> None:
    """A misspelt or malformed key is not reported as a missing one, too."""
    assert only_mistake({"api_keys": [API_KEY], "auth": {"secert": SECRET}}).key == "auth.secert"
    assert only_mistake({"api_keys": [API_KEY], "auth": {"secret": 5}}).key == "auth.secret"
    assert only_mistake({"api_keys": [API_KEY], "auth": 5}).key == "auth"
    assert only_mistake({"api_kesy": [API_KEY], "auth": {"secret": SECRET}}).key == "api_kesy"


# Files


def test_files_are_found_from_the_folder_of_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    private = ed25519.Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    jwk = {"keys": [{"kty": "oct", "k": "A" * 43, "alg": "HS256"}]}
    (tmp_path / "jwks.json").write_text(json.dumps(jwk))
    keys = [
        {"kid": "a", "secret_file": "secret"},
        {"kid": "b", "public_key_file": "./public.pem", "algorithm": "EdDSA"},
    ]
    tables = production(auth={"keys": keys, "jwks_file": "jwks.json"})
    config = interpret(tables, str(tmp_path / "clarion.toml"), {}, {}).config
    assert config.auth.keys[0].secret_file == str(tmp_path / "secret")
    assert config.auth.keys[1].public_key_file == str(tmp_path / "public.pem")
    assert config.auth.jwks_file == str(tmp_path / "jwks.json")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("secret_file", b"x" * 31 + b"\n", "31 bytes"),
        ("public_key_file", b"nothing", "holds no public key in PEM form"),
        ("jwks_file", b"{}", "is not a key set"),
    ],
)
def test_a_file_must_hold_what_it_is_for(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    auth: dict[str, object] = {"jwks_file": "file"}
    if name != "jwks_file":
        algorithm = "HS256" if name == "secret_file" else "ES256"
        auth = {"keys": [{name: "file", "algorithm": algorithm}]}
    with pytest.raises(ConfigError) as caught:
        interpret(production(auth=auth), str(tmp_path / "clarion.toml"), {}, {})
    assert says in str(caught.value)


def test_a_private_key_in_the_place_of_a_public_one_is_refused(tmp_path: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    auth = {"keys": [{"public_key_file": "key.pem", "algorithm": "EdDSA"}]}
    with pytest.raises(ConfigError, match="holds a private key"):
        interpret(production(auth=auth), str(tmp_path / "clarion.toml"), {}, {})


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (b"port = 1\nhost = localhost\n", ", line 2, column 8", "is not TOML: invalid value"),
        (b"port = 1\nport = 2\n", ", line 2, column 9", "is not TOML: cannot overwrite"),
        (b"a = [", "", "end of document"),
        (b'a = 1\nb = "\xff"\n', ", line 2", "byte 0xff is not valid UTF-8"),
        (b"a = " + b"[" * 10_000, "", "nested too deeply"),
        (b"a = " + b"9" * 5_000, "", "is not TOML"),
        (b"#" * 1_048_577, None, "larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_toml_is_reported_with_line_and_column(
    tmp_path: Path, content: bytes, place: str | None, says: str
) -> None:
    file = tmp_path / "clarion.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {}, {})
    [mistake] = caught.value.mistakes
    assert mistake.source == ("--config" if place is None else f"{file}{place}")
    assert says in mistake.problem


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "clarion.toml"
    file.write_bytes(b"\xef\xbb\xbfdevelopment = true\n")
    assert load(str(file), {}, {}).development


@pytest.mark.parametrize(
    ("path", "says"), [("none.toml", "there is no such file"), (".", "is a directory")]
)
def test_a_file_that_cannot_be_read_is_one_mistake_among_all(path: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, {"CLARION_PORT": "x"}, {})
    file, port = caught.value.mistakes
    assert file.source == "--config"
    assert says in file.problem
    assert port.source == "CLARION_PORT"


def test_a_file_with_secrets_that_all_may_read_is_a_warning(tmp_path: Path) -> None:
    file, secret = tmp_path / "clarion.toml", tmp_path / "secret"
    file.write_text(f'api_keys = ["{API_KEY}"]\n[[auth.keys]]\nsecret_file = "secret"\nkid = "a"\n')
    secret.write_text(SECRET)
    file.chmod(0o600)
    secret.chmod(0o600)
    assert read(str(file), {}, {}).warnings == ()
    file.chmod(0o644)
    secret.chmod(0o644)
    ours, other = read(str(file), {}, {}).warnings
    assert ours.startswith(f"{file} holds secrets")
    assert other.startswith(f"{secret} holds secrets")


def test_a_file_without_secrets_may_be_read_by_all(tmp_path: Path) -> None:
    file = tmp_path / "clarion.toml"
    file.write_text("port = 9000\n")
    file.chmod(0o644)
    environ = {"CLARION_API_KEYS": API_KEY, "CLARION_AUTH_SECRET": SECRET}
    assert read(str(file), environ, {}).warnings == ()


# Secrets


def test_no_text_shows_a_secret() -> None:
    config = Config(
        api_keys=("hunter1" * 3,),
        redis=("redis://:hunter2@127.0.0.1",),
        auth=AuthOptions(secret="hunter3" * 5, keys=(KeyOptions(secret="hunter4" * 5),)),
    )
    for text in (repr(config), str(config), f"{config}", str(config.__rich_repr__())):
        assert "hunter" not in text
        assert HIDDEN in text


def test_no_mistake_shows_a_secret() -> None:
    tables = {
        "api_keys": ["hunter1", ["hunter2"]],
        "auth": {"secret": "hunter3", "keys": [{"secret": "hunter4"}, {"secret": ["hunter5"]}]},
    }
    environ = {"CLARION_API_KEYS": "hunter6", "CLARION_AUTH_SECRET": "hunter7"}
    for variables in ({}, environ):
        with pytest.raises(ConfigError) as caught:
            interpret(tables, "clarion.toml", variables, {})
        assert "hunter" not in str(caught.value)


# Anything at all

NAMES = st.sampled_from(
    [*(part for key in OPTIONS for part in key.split(".")), "keys", "namespaces", "kid", "a b"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.datetimes()
    | st.sampled_from([*ALGORITHMS, "everyone", SECRET, "127.0.0.1", "*", "/dev/null"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=6)
VARIABLES = st.sampled_from([option.variable for option in OPTIONS.values()])


@given(TABLES, st.dictionaries(VARIABLES, st.text(max_size=12), max_size=4))
def test_whatever_is_given_is_taken_or_refused_with_reasons(
    tables: dict[str, object], environ: dict[str, str]
) -> None:
    try:
        config = interpret(tables, "clarion.toml", environ, {}).config
    except ConfigError as error:
        reasons = [bool(mistake.source and mistake.problem) for mistake in error.mistakes]
    else:
        # What was taken is what the types say.
        reasons = [msgspec.convert(msgspec.to_builtins(config), Config) == config]
    assert reasons
    assert all(reasons)


# The catalogue of options


@pytest.mark.parametrize(
    "option", [*OPTIONS.values(), *catalogue(KeyOptions), *catalogue(Namespace)]
)
def test_every_option_is_described_and_its_default_is_allowed(option: Option) -> None:
    assert option.facts.text
    assert not option.facts.text.endswith(".")
    assert option.facts.why.endswith(".")
    assert option.checked(option.default) == option.default
    if option.kind in (int, float) and not option.key.endswith("port"):
        assert option.facts.unit


def test_the_variables_are_one_for_each_option() -> None:
    assert len({option.variable for option in OPTIONS.values()}) == len(OPTIONS)


def test_the_shortest_secrets_are_those_of_the_algorithms() -> None:
    """The text of a mistake says 32; the rule is the key's own."""
    assert SECRET_BYTES["HS256"] == len(SECRET)


def test_only_config_reads_the_environment() -> None:
    """One place to look at, and nothing else changes how a server behaves."""
    folder = Path(clarion_server.__file__).parent
    readers = {
        str(file.relative_to(folder))
        for file in folder.rglob("*.py")
        if "os.environ" in file.read_text(encoding="utf-8")
        or "os.getenv" in file.read_text(encoding="utf-8")
    }
    assert readers == {"config/__init__.py"}
