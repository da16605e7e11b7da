"""Tokens: which are accepted, what is read from them, and the attacks that must not work.

No clock and no network: keys are made here, and the time is a number.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import example, given
from hypothesis import strategies as st

from clarion_server.auth import (
    ANONYMOUS,
    Authenticator,
    Identity,
    KeyUnknown,
    TokenRefused,
    mint,
    token_claims,
)
from clarion_server.auth.grants import EMPTY, Grants
from clarion_server.auth.keyset import KeySet, pem_key, secret_key
from clarion_server.options import Algorithm, AuthOptions

NOW = 1_790_000_000.0
SECRET = b"a secret of at least thirty-two bytes, for HS256 alone"
LONG_SECRET = b"0123456789abcdef" * 4

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
PRIVATE: dict[Algorithm, bytes] = {
    "HS256": SECRET,
    "HS384": LONG_SECRET,
    "HS512": LONG_SECRET,
    "RS256": private_pem(RSA),
    "RS384": private_pem(RSA),
    "RS512": private_pem(RSA),
    "ES256": private_pem(EC),
    "ES384": private_pem(ec.generate_private_key(ec.SECP384R1())),
    "ES512": private_pem(ec.generate_private_key(ec.SECP521R1())),
    "EdDSA": private_pem(ed25519.Ed25519PrivateKey.generate()),
}


def public_of(algorithm: Algorithm) -> bytes:
    key = load_pem_private_key(PRIVATE[algorithm], None)
    assert isinstance(key, PrivateKey)
    return public_pem(key)


KEYS = KeySet(
    secret_key(PRIVATE[name], name, f"the {name} key")
    if name.startswith("HS")
    else pem_key(public_of(name), name, f"the {name} key")
    for name in PRIVATE
)
SIMPLE = KeySet([secret_key(SECRET, "HS256")])


def claims(**changes: object) -> dict[str, object]:
    """Good claims with `changes`; a change to None removes the claim."""
    made = token_claims(sub="42", ttl=60, now=NOW) | changes
    return {name: value for name, value in made.items() if value is not None}


def signed(**changes: object) -> str:
    return mint(claims(**changes), SECRET, "HS256")


def verify(token: str, now: float = NOW, **options: object) -> Identity:
    return Authenticator(AuthOptions(**options), SIMPLE).verify(token, now)  # type: ignore[arg-type]


def refusal(token: str, now: float = NOW, **options: object) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        verify(token, now, **options)
    return caught.value


def part(content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def by_hand(header: object, payload: object, secret: bytes = SECRET) -> str:
    """A token that no library would make, with a true HS256 signature."""
    message = f"{part(header)}.{part(payload)}"
    digest = hmac.digest(secret, message.encode(), hashlib.sha256)
    return f"{message}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


HS256 = {"alg": "HS256"}


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_token_of_every_algorithm_is_accepted_with_its_key_alone(algorithm: Algorithm) -> None:
    token = mint(claims(), PRIVATE[algorithm], algorithm, f"the {algorithm} key")
    assert Authenticator(AuthOptions(), KEYS).verify(token, NOW).user == "42"
    message, _, signature = token.rpartition(".")
    turned = signature[:9] + ("A" if signature[9] != "A" else "B") + signature[10:]
    with pytest.raises(TokenRefused, match="signature is wrong"):
        Authenticator(AuthOptions(), KEYS).verify(f"{message}.{turned}", NOW)


def test_an_identity_is_what_the_claims_say() -> None:
    identity = verify(signed(subscribe=["chat:*"], publish="chat:1 chat:2"))
    assert identity == Identity(
        user="42",
        subscribe=Grants.parse(["chat:*"]),
        publish=Grants.parse(["chat:1", "chat:2"]),
        expires=NOW + 60,
    )


def test_claims_that_grant_may_have_other_names_and_need_not_be_there() -> None:
    token = signed(**{"https://app.example.com/topics": ["chat:*"]})
    assert verify(token).subscribe is EMPTY
    identity = verify(token, subscribe_claim="https://app.example.com/topics")
    assert identity.subscribe.allows("chat:1")
    assert identity.publish is EMPTY


def test_anonymous_is_nobody_and_was_granted_nothing() -> None:
    assert Identity() == ANONYMOUS
    assert (ANONYMOUS.user, ANONYMOUS.expires) == (None, None)
    assert not ANONYMOUS.subscribe.allows("a")


@pytest.mark.parametrize("sub", ["auth0|42", "a b", "\u00e9\U0001f600", "x" * 128, "42"])
def test_a_user_may_be_called_anything_printable(sub: str) -> None:
    assert verify(signed(sub=sub)).user == sub


@pytest.mark.parametrize(
    "sub",
    [None, "", 42, 4.2, True, ["42"], {"id": 42}, "x" * 129, "a\nb", "a\r\n", "\x00", "\u202e42"],
)
def test_a_sub_that_is_no_name_is_refused(sub: object) -> None:
    assert "sub" in str(refusal(signed(sub=sub)))


def test_a_sub_that_utf8_cannot_write_is_refused() -> None:
    payload = '{"sub":"\\ud800","exp":1790000060}'
    assert "printable" in str(refusal(by_hand(HS256, payload)))


def test_exp_is_required_and_says_so() -> None:
    assert "exp" in str(refusal(signed(exp=None)))


def test_an_expired_token_is_told_from_all_others_once_the_leeway_has_passed() -> None:
    token = signed(exp=NOW)
    assert verify(token, NOW + 9.9, leeway_s=10).expires == NOW + 10
    error = refusal(token, NOW + 10, leeway_s=10)
    assert error.expired
    assert not isinstance(error, KeyUnknown)
    assert not refusal(signed(sub="")).expired


def test_an_expired_token_of_another_issuer_is_not_invited_to_come_back() -> None:
    assert not refusal(signed(exp=1, iss="b"), issuer="a").expired


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_from_the_future_waits_for_the_leeway(name: str) -> None:
    token = signed(**{name: NOW + 10})
    assert verify(token, NOW, leeway_s=10).user == "42"
    assert name in str(refusal(token, NOW - 0.1, leeway_s=10))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("text", ["true", "null", '"1790000060"', "[]", "{}", "-1", "1e300",
                                  "1e999", "1790000060000", "9" * 400, "9" * 5000])  # fmt: skip
def test_attack_times_that_are_no_time_are_refused(name: str, text: str) -> None:
    base = {key: value for key, value in claims().items() if key != name}
    payload = json.dumps(base)[:-1] + f', "{name}": {text}}}'
    assert not refusal(by_hand(HS256, payload)).expired


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_attack_what_python_takes_for_json_is_refused(text: str) -> None:
    assert "not JSON" in str(refusal(by_hand(HS256, f'{{"sub":"42","exp":{text}}}')))


def test_the_issuer_must_be_the_configured_one() -> None:
    assert verify(signed(iss="https://id.example.com"), issuer="https://id.example.com")
    assert verify(signed(iss="whoever"))
    for issuer in (None, "https://id.example.com.evil.example", ["https://id.example.com"], 7):
        assert "iss" in str(refusal(signed(iss=issuer), issuer="https://id.example.com"))


def test_the_audience_must_hold_the_configured_one() -> None:
    assert verify(signed(aud="clarion"), audience="clarion")
    assert verify(signed(aud=["other", "clarion"]), audience="clarion")
    for audience in (None, "", "clarion2", [], ["other"], {"clarion": 1}, "a clarion", 7):
        assert "aud" in str(refusal(signed(aud=audience), audience="clarion"))


def test_a_token_for_an_audience_is_not_for_a_server_that_is_none() -> None:
    assert "aud" in str(refusal(signed(aud="billing")))


@pytest.mark.parametrize("claim", [None, 7, True, {"a": 1}, ["a", 7], ["a b"], "caf\u00e9"])
def test_grants_that_cannot_be_read_refuse_the_token_and_name_the_claim(claim: object) -> None:
    payload = {**claims(), "subscribe": claim}
    assert str(refusal(by_hand(HS256, payload))).startswith("subscribe ")


def test_a_token_without_kid_needs_exactly_one_key_that_fits() -> None:
    two = KeySet([secret_key(SECRET, "HS256", "a"), secret_key(LONG_SECRET, "HS256", "b")])
    with pytest.raises(TokenRefused, match="no kid"):
        Authenticator(AuthOptions(), two).verify(signed(), NOW)
    one = KeySet([secret_key(SECRET, "HS256", "a"), pem_key(public_of("RS256"), "RS256", "b")])
    assert Authenticator(AuthOptions(), one).verify(signed(), NOW).user == "42"


def test_a_kid_that_no_key_has_may_mean_the_one_without_a_name() -> None:
    assert verify(mint(claims(), SECRET, "HS256", "main")).user == "42"


def test_a_kid_that_is_unknown_asks_for_new_keys() -> None:
    token = mint(claims(), PRIVATE["RS256"], "RS256", "tomorrow's key")
    with pytest.raises(KeyUnknown):
        Authenticator(AuthOptions(), KEYS).verify(token, NOW)


def test_one_kid_may_name_keys_of_several_kinds() -> None:
    keys = KeySet([secret_key(SECRET, "HS256", "k"), pem_key(public_of("RS256"), "RS256", "k")])
    for algorithm in PRIVATE.keys() & {"HS256", "RS256"}:
        token = mint(claims(), PRIVATE[algorithm], algorithm, "k")
        assert Authenticator(AuthOptions(), keys).verify(token, NOW).user == "42"


def test_two_keys_of_one_name_are_both_tried() -> None:
    keys = KeySet([secret_key(LONG_SECRET, "HS256", "k"), secret_key(SECRET, "HS256", "k")])
    token = mint(claims(), SECRET, "HS256", "k")
    assert Authenticator(AuthOptions(), keys).verify(token, NOW).user == "42"


def test_an_algorithm_that_is_left_out_is_not_accepted_though_there_is_a_key() -> None:
    assert "not accepted" in str(refusal(signed(), algorithms=("RS256",)))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_attack_none_is_no_algorithm(name: str) -> None:
    header, payload = part({"alg": name, "typ": "JWT"}), part(claims())
    refusal(f"{header}.{payload}.")
    refusal(f"{header}.{payload}.AAAA")
    assert "not accepted" in str(refusal(by_hand({"alg": name}, claims())))


@pytest.mark.parametrize("kid", ["the RS256 key", None])
@pytest.mark.parametrize("strip", [False, True])
def test_attack_public_key_as_hmac_secret(kid: str | None, strip: bool) -> None:
    secret = public_of("RS256").strip() if strip else public_of("RS256")
    header = {"alg": "HS256"} | ({"kid": kid} if kid else {})
    token = by_hand(header, claims(), secret)
    only_rsa = KeySet([pem_key(public_of("RS256"), "RS256", "the RS256 key")])
    for keys in (only_rsa, KEYS):
        with pytest.raises(TokenRefused):
            Authenticator(AuthOptions(), keys).verify(token, NOW)


def test_attack_kid_of_another_key_does_not_lend_its_trust() -> None:
    strangers = private_pem(rsa.generate_private_key(65537, 2048))
    token = mint(claims(), strangers, "RS256", "the RS256 key")
    with pytest.raises(TokenRefused, match="signature is wrong"):
        Authenticator(AuthOptions(), KEYS).verify(token, NOW)


def test_attack_kid_of_another_issuer() -> None:
    """Two issuers with a key each: theirs does not prove a token that names ours."""
    ours = AuthOptions(issuer="https://ours.example")
    token = mint(claims(iss="https://theirs.example"), SECRET, "HS256", "the HS256 key")
    with pytest.raises(TokenRefused, match="another issuer"):
        Authenticator(ours, KEYS).verify(token, NOW)
    lie = mint(claims(iss="https://ours.example"), LONG_SECRET, "HS256", "the HS256 key")
    with pytest.raises(TokenRefused, match="signature is wrong"):
        Authenticator(ours, KEYS).verify(lie, NOW)


def test_attack_key_in_the_token_itself_is_not_looked_at() -> None:
    stranger = b"the secret of somebody else altogether!!"
    jwk = {"kty": "oct", "k": part(stranger.decode()), "alg": "HS256"}
    where = "https://evil.example/jwks.json"
    header = {"alg": "HS256", "jwk": jwk, "jku": where, "x5u": where, "x5c": ["MIIB"]}
    assert "signature is wrong" in str(refusal(by_hand(header, claims(), stranger)))
    assert verify(by_hand(header, claims())).user == "42"


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512"])
@pytest.mark.parametrize("value", ["zero", "order", "ones"])
def test_attack_r_and_s_zero_prove_nothing(algorithm: Algorithm, value: str) -> None:
    token = mint(claims(), PRIVATE[algorithm], algorithm, f"the {algorithm} key")
    message, _, signature = token.rpartition(".")
    size = len(base64.urlsafe_b64decode(signature + "==")) // 2
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    half = {"zero": 0, "order": order, "ones": 256**size - 1}[value].to_bytes(size, "big")
    forged = base64.urlsafe_b64encode(half + half).decode().rstrip("=")
    with pytest.raises(TokenRefused, match="signature is wrong"):
        Authenticator(AuthOptions(), KEYS).verify(f"{message}.{forged}", NOW)


@pytest.mark.parametrize("algorithm", PRIVATE)
@pytest.mark.parametrize("signature", ["AA", "AAAA", "A" * 88, "A" * 400, "A" * 4000])
def test_attack_signature_of_another_size(algorithm: Algorithm, signature: str) -> None:
    token = mint(claims(), PRIVATE[algorithm], algorithm, f"the {algorithm} key")
    message, _, _ = token.rpartition(".")
    with pytest.raises(TokenRefused, match="signature is wrong"):
        Authenticator(AuthOptions(), KEYS).verify(f"{message}.{signature}", NOW)


@pytest.mark.parametrize(
    "extra", [{"crit": []}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"b64": False}]
)
def test_attack_extensions_that_change_the_meaning_are_refused(extra: Mapping[str, object]) -> None:
    assert "extension" in str(refusal(by_hand({**HS256, **extra}, claims())))


@pytest.mark.parametrize(
    "header",
    ['{"alg":"HS256","alg":"none"}', '{"alg":["HS256"]}', '{"alg":null}', "{}", "[]", '"HS256"',
     '{"alg":"HS256","kid":7}', '{"alg":"HS256","kid":["a"]}', "{", "", "[" * 5000],
)  # fmt: skip
def test_attack_headers_of_odd_shapes(header: str) -> None:
    refusal(by_hand(header, claims()))


def test_attack_member_that_two_readers_could_read_differently() -> None:
    payload = '{"sub":"1","exp":1790000060,"sub":"admin"}'
    assert "twice" in str(refusal(by_hand(HS256, payload)))
    nested = '{"sub":"1","exp":1790000060,"x":{"a":1,"a":2}}'
    assert "twice" in str(refusal(by_hand(HS256, nested)))


def test_attack_nesting_that_is_too_deep_for_a_parser() -> None:
    payload = '{"sub":"1","exp":1790000060,"x":' + "[" * 20_000 + "]" * 20_000 + "}"
    assert "JSON" in str(refusal(by_hand(HS256, payload), token_bytes=65_536))


SPELLINGS: list[Callable[[str], str]] = [
    lambda token: token + "=",
    lambda token: token + ".",
    lambda token: "." + token,
    lambda token: token + ".e30",
    lambda token: token.replace(".", "..", 1),
    lambda token: token.rpartition(".")[0],
    lambda token: token + "\n",
    lambda token: " " + token,
    lambda token: "Bearer " + token,
    lambda token: token + "\x00",
    lambda token: token + "\u00e9",
    lambda token: token + "\ud800",
    lambda token: token.replace(".", "\u2024", 1),
    lambda token: token[:-1] + chr(ord(token[-1]) + 1),
    lambda token: token + "A",
]


@pytest.mark.parametrize("spell", SPELLINGS)
def test_attack_a_token_has_one_spelling(spell: Callable[[str], str]) -> None:
    # 32 bytes of signature end in a character of which two bits are unused.
    token = signed()
    assert token[-1] in "AEIMQUYcgkosw048"
    refusal(spell(token))


def test_attack_a_token_that_is_too_long_is_not_even_read() -> None:
    token = signed(padding="x" * 8192)
    assert "longer than 8192" in str(refusal(token))
    assert verify(token, token_bytes=len(token)).user == "42"
    assert refusal(token, token_bytes=len(token) - 1)


@given(st.one_of(st.text(), st.binary().map(lambda data: data.decode("latin-1"))))
@example("")
@example("..")
@example("a.b.c")
def test_any_text_is_either_a_token_or_refused(text: str) -> None:
    error = refusal(text)
    assert str(error).isascii()
    assert len(str(error)) <= 120


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_NAMES = st.sampled_from(["alg", "kid", "crit", "sub", "exp", "nbf", "iat", "aud", "iss",
                          "subscribe", "publish"])  # fmt: skip


@given(
    header=st.dictionaries(_NAMES, _JSON | st.sampled_from(list(PRIVATE))),
    payload=st.dictionaries(_NAMES, _JSON) | _JSON,
)
def test_any_content_truly_signed_is_either_an_identity_or_refused(
    header: dict[str, object], payload: object
) -> None:
    for head in (HS256, {**HS256, **header}):
        token = by_hand(head, payload)
        for options in (AuthOptions(token_bytes=65_536), AuthOptions(issuer="a", audience="b")):
            with suppress(TokenRefused):
                assert Authenticator(options, SIMPLE).verify(token, NOW).user


@given(
    algorithm=st.sampled_from(list(PRIVATE)),
    claimed=st.sampled_from(list(PRIVATE)),
    signature=st.binary(max_size=300),
)
def test_no_signature_but_the_true_one_is_accepted(
    algorithm: Algorithm, claimed: Algorithm, signature: bytes
) -> None:
    header = part({"alg": claimed, "kid": f"the {algorithm} key"})
    encoded = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    with pytest.raises(TokenRefused):
        Authenticator(AuthOptions(), KEYS).verify(f"{header}.{part(claims())}.{encoded}", NOW)


def test_minted_claims_are_those_that_verify_reads() -> None:
    made = token_claims(
        sub="42", ttl=60, now=NOW, subscribe=["a:*"], publish=["b"], audience="x", issuer="y"
    )
    identity = verify(mint(made, SECRET, "HS256"), audience="x", issuer="y")
    assert identity == Identity("42", Grants.parse("a:*"), Grants.parse("b"), NOW + 60)
    assert "subscribe" not in token_claims(sub="42", ttl=60, now=NOW)


@pytest.mark.parametrize(("sub", "grant"), [("", "a"), ("a\n", "a"), ("42", "a b")])
def test_claims_that_would_be_refused_are_not_made(sub: str, grant: str) -> None:
    with pytest.raises(ValueError, match=r"sub|grant"):
        token_claims(sub=sub, ttl=60, now=NOW, subscribe=[grant])


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (b"tiny", "HS256"),
        (SECRET[:47], "HS384"),
        (PRIVATE["RS256"], "HS256"),
        (PRIVATE["RS256"], "ES256"),
        (PRIVATE["ES256"], "EdDSA"),
        (SECRET, "RS256"),
        (b"", "none"),
        (SECRET, "HS1"),
    ],
)
def test_a_key_that_does_not_fit_cannot_mint_and_is_not_shown(key: bytes, algorithm: str) -> None:
    with pytest.raises(ValueError, match=algorithm) as caught:
        mint(claims(), key, algorithm)
    assert key == b"" or key.decode() not in str(caught.value)
