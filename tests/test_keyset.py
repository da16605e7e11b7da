"""Keys as secrets, PEM and JWK: which are taken, under which algorithm, and why others are not."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from clarion_server.auth.keyset import (
    MAX_KEYS,
    Key,
    KeyRefused,
    KeySet,
    jwk_key,
    pem_key,
    read_jwks,
    secret_key,
)
from clarion_server.options import ALGORITHMS, Algorithm

RSA = rsa.generate_private_key(65537, 2048)
SMALL_RSA = rsa.generate_private_key(65537, 1024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
KOBLITZ = ec.generate_private_key(ec.SECP256K1())
ED = ed25519.Ed25519PrivateKey.generate()

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def jwk(key: Private, **changes: object) -> dict[str, object]:
    """The public key as a JWK, with `changes`; a change to None removes the member."""
    if isinstance(key, rsa.RSAPrivateKey):
        members = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        members = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        members = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: value for name, value in (members | changes).items() if value is not None}


def octets(secret: bytes, **changes: object) -> dict[str, object]:
    text = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return {"kty": "oct", "k": text, **changes}


def pem(key: Private | x25519.X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_at_least_as_long_as_the_hash(algorithm: str, least: int) -> None:
    assert secret_key(b"\xff" * least, algorithm, "k").kid == "k"
    with pytest.raises(KeyRefused, match=f"{algorithm} needs at least {least}"):
        secret_key(b"\xff" * (least - 1), algorithm)


@pytest.mark.parametrize(
    "content", [pem(RSA), json.dumps(jwk(RSA)).encode(), b"ssh-rsa " + b"A" * 99]
)
def test_attack_a_public_key_is_no_secret(content: bytes) -> None:
    with pytest.raises(KeyRefused, match="not a key for HS256"):
        secret_key(content, "HS256")


def test_a_secret_is_for_hs_algorithms_and_a_public_key_for_the_others() -> None:
    with pytest.raises(KeyRefused, match="takes a public key"):
        secret_key(b"s" * 64, "RS256")
    with pytest.raises(KeyRefused, match="takes a secret"):
        pem_key(pem(RSA), "HS256")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, "RS512"), (P256, "ES256"), (P384, "ES384"), (P521, "ES512"), (ED, "EdDSA")],
)
def test_a_pem_is_a_key_for_its_own_algorithms_only(key: Private, algorithm: Algorithm) -> None:
    assert pem_key(pem(key), algorithm).algorithm == algorithm
    for other in ALGORITHMS:
        if other[:2] != algorithm[:2] or (other[:2] == "ES" and other != algorithm):
            with pytest.raises(KeyRefused):
                pem_key(pem(key), other)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        (pem(SMALL_RSA), "1024 bits"),
        (pem(KOBLITZ), "not a key for RS256"),
        (pem(x25519.X25519PrivateKey.generate()), "not a key for RS256"),
        (
            RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "private key; this server needs only the public one",
        ),
    ],
)
def test_what_is_no_sound_public_key_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(KeyRefused, match=complaint):
        pem_key(content, "RS256")


@pytest.mark.parametrize(
    ("members", "algorithm"),
    [
        (jwk(RSA), "RS256"),
        (jwk(RSA, alg="RS512"), "RS512"),
        (jwk(RSA, use="sig", x5t="anything"), "RS256"),
        (jwk(P256), "ES256"),
        (jwk(P384), "ES384"),
        (jwk(P521), "ES512"),
        (jwk(ED), "EdDSA"),
        (octets(b"s" * 32), "HS256"),
        (octets(b"s" * 64, alg="HS512"), "HS512"),
    ],
)
def test_a_jwk_has_one_algorithm(members: dict[str, object], algorithm: str) -> None:
    assert jwk_key(members, symmetric=True).algorithm == algorithm


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({}, "not supported"),
        (jwk(RSA, alg="PS256"), "not supported"),
        (jwk(RSA, alg="none"), "not supported"),
        (jwk(RSA, alg=["RS256"]), "not supported"),
        (jwk(RSA, alg="RSA-OAEP"), "not supported"),
        (jwk(RSA, alg="HS256"), "not a key for HS256"),
        (jwk(RSA, alg="ES256"), "not a key for ES256"),
        (jwk(P384, alg="ES256"), "not a key for ES256"),
        (jwk(KOBLITZ, alg="ES256"), "not a key for ES256"),
        (jwk(KOBLITZ), "not supported"),
        (jwk(P256, y=jwk(P256)["x"]), "not a key for ES256"),
        (jwk(SMALL_RSA), "1024 bits"),
        (jwk(RSA, n="A" * 200_000), "modulus"),
        (jwk(RSA, n=7), "not a key for RS256"),
        (jwk(RSA, n=None), "not a key for RS256"),
        (jwk(RSA, use="enc"), "not for signatures"),
        (jwk(RSA, key_ops=["encrypt"]), "not for signatures"),
        (jwk(RSA, key_ops=7), "not for signatures"),
        (jwk(RSA, d="AQAB"), "private key"),
        (jwk(RSA, kid=7), "kid"),
        (octets(b"s" * 31), "31 bytes"),
        (octets(b"s" * 32, alg="HS512"), "32 bytes"),
        ({"kty": "oct"}, "not a key for HS256"),
    ],
)
def test_a_jwk_that_cannot_be_used_is_refused(members: dict[str, object], complaint: str) -> None:
    with pytest.raises(KeyRefused, match=complaint):
        jwk_key(members, symmetric=True)


def test_attack_a_published_secret_is_none() -> None:
    with pytest.raises(KeyRefused, match="never published"):
        jwk_key(octets(b"s" * 32), symmetric=False)


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_a_set_leaves_out_what_cannot_be_used_and_says_why() -> None:
    text = document(jwk(RSA, kid="a"), {"kty": "XYZ"}, 7, jwk(P256, kid="b"), jwk(P384))
    jwks = read_jwks(text, ["RS256", "ES256"], symmetric=False)
    assert [(key.kid, key.algorithm) for key in jwks.keys] == [("a", "RS256"), ("b", "ES256")]
    assert [reason.split()[:2] for reason in jwks.refused] == [
        ["key", "1"], ["key", "2"], ["key", "4"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'no list "keys"'),
        (b'{"keys":{}}', 'no list "keys"'),
        (b'{"keys":[]}', "it is empty"),
        (document(7), "no key that can be used"),
        (document(*[{}] * (MAX_KEYS + 1)), "101 keys"),
    ],
)
def test_what_is_no_key_set_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(KeyRefused, match=complaint):
        read_jwks(content, ALGORITHMS, symmetric=True)


_JSON = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(max_size=3))


@given(
    st.dictionaries(st.sampled_from(["kty", "crv", "alg", "use", "key_ops", "kid", "n", "e", "x",
                                     "y", "d", "k"]), _JSON),
    st.sampled_from([jwk(RSA), jwk(P256), jwk(ED), octets(b"s" * 32)]),
)  # fmt: skip
@example({"n": "é"}, jwk(RSA))
@example({"e": ""}, jwk(RSA))
def test_any_jwk_is_either_a_key_or_refused(
    changes: dict[str, object], members: dict[str, object]
) -> None:
    with suppress(KeyRefused):
        assert jwk_key(members | changes, symmetric=True).algorithm in ALGORITHMS


def test_a_key_does_not_show_its_secret() -> None:
    key = secret_key(b"do not show this to anyone, please", "HS256", "k")
    assert repr(key) == "Key('k', 'HS256')"
    with pytest.raises(KeyRefused) as caught:
        secret_key(b"do not show", "HS256")
    assert "do not show" not in str(caught.value)


def test_a_set_finds_keys_by_algorithm_and_kid() -> None:
    named, other = (Key(kid, "RS256", RSA.public_key()) for kid in "ab")
    twin = Key("a", "ES256", P256.public_key())
    nameless = secret_key(b"s" * 32, "HS256")
    keys = KeySet([named, other, twin, nameless])
    assert keys.find("RS256", "a") == (named,)
    assert keys.find("ES256", "a") == (twin,)
    assert keys.find("ES256", "b") == ()
    assert keys.find("RS256", None) == (named, other)
    assert keys.find("HS256", "whatever") == (nameless,)
    assert keys.find("HS256", "a") == ()
    assert keys.find("RS256", "whatever") == ()
    assert [keys.has(kid) for kid in ("a", "b", "whatever", "")] == [True, True, False, False]
