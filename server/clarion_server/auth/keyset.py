"""Keys that tokens are signed with, and sets of them: no I/O here.

A key is bound to one algorithm when it is read, and used with no other (RFC 8725, section 3.1):
what a token's header says can choose among the keys, but never how a key is used. So a public
key is never an HMAC secret, and `none` is not an algorithm.

The cryptography is PyJWT's, one `Algorithm` each. Keys are prepared once, when they are read;
`jwt.decode` prepares them again for every token, which costs more than checking an HMAC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import get_default_algorithms

from clarion_server.options import ALGORITHMS

MAX_KEYS = 100
"""In one set. Providers publish two to five; more than a hundred is not a key set."""

SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Shortest secrets: as long as the hash (RFC 7518, section 3.2)."""

_RSA_BITS = range(2048, 8192 + 1)
"""At least 2048 (RFC 7518, section 3.3). Above 8192 one check takes too long for an event loop."""

_METHODS = {name: method for name, method in get_default_algorithms().items() if name in ALGORITHMS}

_IMPLIED = {
    "RSA": "RS256",
    "EC P-256": "ES256",
    "EC P-384": "ES384",
    "EC P-521": "ES512",
    "OKP Ed25519": "EdDSA",
    "oct": "HS256",
}

# What PyJWT and cryptography raise for a key that is none; observed, neither documents it all.
_UNREADABLE = (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm)


class KeyRefused(ValueError):
    """Not a key that can be used. The text says why, and holds no part of the key."""


class Key:
    """A key that has been read and checked, for one algorithm. `kid` is "" when it has no name."""

    __slots__ = ("_material", "_method", "algorithm", "kid")

    def __init__(self, kid: str, algorithm: str, material: object) -> None:
        """Raises `KeyRefused` when `material` is not a sound key for `algorithm`."""
        self.kid = kid
        self.algorithm = algorithm
        if algorithm not in _METHODS:
            raise KeyRefused(f"algorithm {algorithm!r} is not supported")
        self._method = _METHODS[algorithm]
        try:
            self._material = self._method.prepare_key(material)
        except _UNREADABLE:
            raise KeyRefused(f"is not a key for {algorithm}") from None
        if isinstance(material, RSAPublicKey) and material.key_size not in _RSA_BITS:
            least, most = _RSA_BITS[0], _RSA_BITS[-1]
            raise KeyRefused(f"has {material.key_size} bits; RSA keys need {least} to {most}")

    def __repr__(self) -> str:
        return f"Key({self.kid!r}, {self.algorithm!r})"

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` of `message` was made with this key. In constant time for HS."""
        return self._method.verify(message, self._material, signature)


def secret_key(secret: bytes, algorithm: str, kid: str = "") -> Key:
    """A shared secret, for an HS algorithm. Raises `KeyRefused`."""
    least = SECRET_BYTES.get(algorithm)
    if least is None:
        raise KeyRefused(f"{algorithm} takes a public key, not a secret")
    if len(secret) < least:
        raise KeyRefused(
            f"has {len(secret)} bytes; {algorithm} needs at least {least} (RFC 7518, section 3.2)"
        )
    return Key(kid, algorithm, secret)


def pem_key(pem: bytes, algorithm: str, kid: str = "") -> Key:
    """A public key in a PEM file, for an RS, ES or EdDSA algorithm. Raises `KeyRefused`."""
    if algorithm in SECRET_BYTES:
        raise KeyRefused(f"{algorithm} takes a secret, not a public key")
    if b"PRIVATE KEY-----" in pem:
        raise KeyRefused("holds a private key; this server needs only the public one")
    try:
        material = load_pem_public_key(pem)
    except _UNREADABLE:
        raise KeyRefused("holds no public key in PEM form") from None
    return Key(kid, algorithm, material)


def jwk_key(jwk: Mapping[str, Any], *, symmetric: bool) -> Key:
    """A JSON Web Key (RFC 7517). Raises `KeyRefused`.

    symmetric: whether it may be a shared secret (`oct`).

    A key that does not name its algorithm gets the one its curve has, and RS256 for RSA: some
    large providers leave it out and sign with that.
    """
    kid, kind, curve = jwk.get("kid", ""), jwk.get("kty"), jwk.get("crv")
    if not isinstance(kid, str):
        raise KeyRefused("has a kid that is not a string")
    if kind == "oct" and not symmetric:
        raise KeyRefused("is a shared secret, and those are never published")
    if kind != "oct" and "d" in jwk:
        raise KeyRefused("is a private key; this server needs only the public one")
    purposes = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not (isinstance(purposes, list) and "verify" in purposes):
        raise KeyRefused("is not for signatures")
    if len(str(jwk.get("n", ""))) > _RSA_BITS[-1] // 6 + 8:
        raise KeyRefused(f"has a modulus of more than {_RSA_BITS[-1]} bits")
    algorithm = jwk.get("alg") or _IMPLIED.get(f"{kind} {curve}") or _IMPLIED.get(str(kind))
    if not isinstance(algorithm, str) or algorithm not in _METHODS:
        raise KeyRefused("has an algorithm that is not supported")
    try:
        material: object = _METHODS[algorithm].from_jwk(dict(jwk))
    except _UNREADABLE:
        raise KeyRefused(f"is not a key for {algorithm}") from None
    if kind == "oct":
        return secret_key(cast(bytes, material), algorithm, kid)
    return Key(kid, algorithm, material)


class Jwks(NamedTuple):
    """What was read of a JSON Web Key Set: the keys, and why each of the others was left out."""

    keys: tuple[Key, ...]
    refused: tuple[str, ...]


def read_jwks(document: bytes, algorithms: Collection[str], *, symmetric: bool) -> Jwks:
    """Reads a key set (RFC 7517, section 5): keys that cannot be used are left out.

    Raises `KeyRefused` when it is not a key set, or has no key that can be used: to go on with
    no key at all would lock everyone out because of one bad answer.
    """
    try:
        parsed: object = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise KeyRefused("is not JSON") from None
    listed = cast("dict[str, object]", parsed).get("keys") if isinstance(parsed, dict) else None
    if not isinstance(listed, list):
        raise KeyRefused('is not a key set: it has no list "keys"')
    jwks = cast("list[object]", listed)
    if len(jwks) > MAX_KEYS:
        raise KeyRefused(f"has {len(jwks)} keys, the limit is {MAX_KEYS}")
    keys: list[Key] = []
    refused: list[str] = []
    for place, jwk in enumerate(jwks):
        try:
            if not isinstance(jwk, dict):
                raise KeyRefused("is not an object")
            key = jwk_key(cast("dict[str, object]", jwk), symmetric=symmetric)
            if key.algorithm not in algorithms:
                raise KeyRefused(f"is for {key.algorithm}, which auth.algorithms leaves out")
        except KeyRefused as error:
            refused.append(f"key {place} {error}")
        else:
            keys.append(key)
    if not keys:
        raise KeyRefused(
            "has no key that can be used: " + ("; ".join(refused[:3]) or "it is empty")
        )
    return Jwks(tuple(keys), tuple(refused))


class KeySet:
    """Keys, found by what a token's header says. It never changes; a new one takes its place."""

    __slots__ = ("_by_algorithm", "_by_kid", "_kids")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        by_kid: dict[tuple[str, str], tuple[Key, ...]] = {}
        by_algorithm: dict[str, tuple[Key, ...]] = {}
        for key in keys:
            place = key.algorithm, key.kid
            by_kid[place] = (*by_kid.get(place, ()), key)
            by_algorithm[key.algorithm] = (*by_algorithm.get(key.algorithm, ()), key)
        self._by_kid = by_kid
        self._by_algorithm = by_algorithm
        self._kids = frozenset(kid for _, kid in by_kid if kid)

    def has(self, kid: str) -> bool:
        """Whether there is a key named `kid`, for whatever algorithm."""
        return kid in self._kids

    def find(self, algorithm: str, kid: str | None) -> tuple[Key, ...]:
        """The keys that a token may be signed with; there may be several, and then any will do.

        A `kid` that no key has can still be meant for a key without a name. Without a `kid`: all
        keys of the algorithm, and it is for the caller to refuse to guess among several.
        """
        if kid is None:
            return self._by_algorithm.get(algorithm, ())
        if kid in self._kids:
            return self._by_kid.get((algorithm, kid), ())
        return self._by_kid.get((algorithm, ""), ())
