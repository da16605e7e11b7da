"""Who a client is: tokens (JWT, RFC 7519) checked against the keys in force.

A token is text from anyone. It is taken apart, the key is chosen and its algorithm compared, the
signature is checked, and only then is a claim looked at. Everything that is wrong ends in
`TokenRefused`; any other exception is a bug.

Claims, beside the two that grant topics:

    sub   required: the user. At most 128 characters, all of them printable, so that it is safe in
          logs and frames. `user:<sub>` is the user's own topic if that is a topic.
    exp   required. A connection lives for hours or days: a token that never ends could not be
          taken back short of a new key for everyone.
    nbf, iat    not in the future
    iss   as configured, if it is
    aud   holds the configured one; without one configured, a token that names an audience is for
          somebody else (RFC 7519, section 4.1.3)

Times may be off by the configured leeway.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import jwt
import msgspec

from clarion_server.auth.grants import EMPTY, Grants, GrantsError
from clarion_server.auth.keyset import Key
from clarion_server.auth.tokens import KeyUnknown, TokenRefused, json_object, take_apart
from clarion_server.options import ALGORITHMS, AuthOptions

__all__ = [
    "ANONYMOUS",
    "Authenticator",
    "Identity",
    "KeyUnknown",
    "TokenRefused",
    "mint",
    "token_claims",
]

MAX_SUB = 128
"""Characters. Identity providers stay below 64; with `user:` before it, it must fit a topic."""

_LATEST = 253_402_300_799
"""The end of the year 9999, Unix seconds. Milliseconds, given by mistake, are later than that."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who a connection acts for.

    user: the token's `sub`; None is anonymous.
    expires: when this ends, Unix seconds; None is never. It is the token's `exp`, or for a
        token that is accepted only thanks to the leeway, the end of that.
    """

    user: str | None = None
    subscribe: Grants = EMPTY
    publish: Grants = EMPTY
    expires: float | None = None


ANONYMOUS = Identity()


class Keys(Protocol):
    """Where keys are found: a `KeyRing`, or a `KeySet` where nothing changes."""

    def has(self, kid: str) -> bool: ...
    def find(self, algorithm: str, kid: str | None) -> tuple[Key, ...]: ...


class Authenticator:
    """Tells identities from tokens. No I/O, no clock: it may be called from anywhere."""

    __slots__ = ("_keys", "_options")

    def __init__(self, options: AuthOptions, keys: Keys) -> None:
        self._options = options
        self._keys = keys

    def verify(self, token: str, now: float) -> Identity:
        """The identity that `token` proves at `now`, Unix seconds.

        Raises `TokenRefused`, `KeyUnknown` among them, and nothing else.
        """
        parts = take_apart(token, self._options.token_bytes)
        keys = self._candidates(parts.algorithm, parts.kid)
        if not any(key.signed(parts.signed, parts.signature) for key in keys):
            raise TokenRefused("the token's signature is wrong")
        return self._identity(json_object(parts.payload), now)

    def _candidates(self, algorithm: str, kid: str | None) -> tuple[Key, ...]:
        if algorithm not in self._options.algorithms:
            raise TokenRefused("the token's algorithm is not accepted")
        keys = self._keys.find(algorithm, kid)
        if not keys:
            if kid is not None and self._keys.has(kid):
                raise TokenRefused("the token's algorithm is not that of its key")
            raise KeyUnknown("the token is signed with a key that is not known here")
        if kid is None and len(keys) > 1:
            raise TokenRefused("the token has no kid, and more than one key would fit")
        return keys

    def _identity(self, claims: dict[str, object], now: float) -> Identity:
        options = self._options
        leeway = options.leeway_s
        if options.issuer and claims.get("iss") != options.issuer:
            raise TokenRefused("the token is from another issuer (iss)")
        _check_audience(claims.get("aud"), options.audience)
        expires = _time(claims, "exp")
        if expires is None:
            raise TokenRefused("the token has no exp; one that never ends is not accepted")
        if expires + leeway <= now:
            raise TokenRefused("the token has expired", expired=True)
        for name in ("nbf", "iat"):
            time = _time(claims, name)
            if time is not None and time - leeway > now:
                raise TokenRefused(f"the token is not valid yet ({name})")
        return Identity(
            user=_user(claims.get("sub")),
            subscribe=_granted(claims, options.subscribe_claim),
            publish=_granted(claims, options.publish_claim),
            expires=expires if expires > now else expires + leeway,
        )


def _time(claims: dict[str, object], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # In Python, True is an int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused(f"{name} is not a number")
    if not 0 <= value <= _LATEST:
        raise TokenRefused(f"{name} is not a time in seconds since 1970")
    return value


def _user(sub: object) -> str:
    if not isinstance(sub, str) or not sub:
        raise TokenRefused("the token has no sub, or it is not a string")
    if len(sub) > MAX_SUB:
        raise TokenRefused(f"sub is longer than {MAX_SUB} characters")
    # Also keeps out lone surrogates, which JSON can write and UTF-8 cannot.
    if not sub.isprintable():
        raise TokenRefused("sub has characters that are not printable")
    return sub


def _check_audience(claim: object, audience: str) -> None:
    if not audience:
        if claim:
            raise TokenRefused("the token is for an audience (aud), and none is configured here")
        return
    if claim != audience and not (isinstance(claim, list) and audience in claim):
        raise TokenRefused("the token is for another audience (aud)")


def _granted(claims: dict[str, object], name: str) -> Grants:
    if name not in claims:
        return EMPTY
    try:
        return Grants.parse(claims[name])
    except GrantsError as error:
        raise TokenRefused(f"{ascii(name)[1:-1][:32]} {error}") from None


def token_claims(
    *,
    sub: str,
    ttl: float,
    now: float,
    subscribe: Sequence[str] = (),
    publish: Sequence[str] = (),
    audience: str = "",
    issuer: str = "",
    subscribe_claim: str = "subscribe",
    publish_claim: str = "publish",
) -> dict[str, object]:
    """The claims of a token that ends `ttl` seconds from `now`, for `mint`.

    Raises `ValueError` for a `sub` or grants that would be refused.
    """
    try:
        _user(sub)
        Grants.parse(subscribe)
        Grants.parse(publish)
    except TokenRefused as error:
        raise ValueError(str(error)) from None
    claims: dict[str, object] = {"sub": sub, "iat": int(now), "exp": math.ceil(now + ttl)}
    optional: dict[str, object] = {"aud": audience, "iss": issuer}
    optional |= {subscribe_claim: list(subscribe), publish_claim: list(publish)}
    return claims | {name: value for name, value in optional.items() if value}


def mint(claims: Mapping[str, object], key: str | bytes, algorithm: str, kid: str = "") -> str:
    """A token with `claims`, for development and tests; issuers have their own library.

    key: the secret of an HS algorithm, or a private key in PEM form.
    Raises `ValueError` when the key does not fit the algorithm, or is too short for it.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} is not supported")
    headers = {"kid": kid} if kid else None
    try:
        return _SIGNER.encode(
            json.dumps(dict(claims), separators=(",", ":")).encode(), key, algorithm, headers
        )
    except (jwt.PyJWTError, TypeError, ValueError):
        raise ValueError(f"the key cannot sign with {algorithm}, or is too short for it") from None


_SIGNER = jwt.PyJWS(options={"enforce_minimum_key_length": True})
