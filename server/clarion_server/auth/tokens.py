"""A token taken apart: JWS compact serialisation (RFC 7515, section 7.1), read strictly.

Three parts of base64url without padding, in the one way each can be written; JSON in UTF-8 with
no member twice. Nothing here says that a token is genuine.

Of the header only `alg` and `kid` are used. Keys and addresses of keys in it (`jwk`, `jku`, `x5u`,
`x5c`) are anyone's, and never looked at. `crit` is refused, as no extension is known here
(section 4.1.11).
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from functools import lru_cache
from typing import NamedTuple, NoReturn, cast

_MAX_REASON = 120
"""Characters of a refusal: it must fit the 123 bytes of a close frame (RFC 6455, section 5.5)."""

_TOKEN = re.compile(r"([\w-]++)\.([\w-]++)\.([\w-]++)", re.ASCII)


class TokenRefused(Exception):
    """The token is not accepted. The text is ASCII, short, and safe to show to the client.

    expired: it was good once; a client that fetches a new one may come back.
    """

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        super().__init__(reason[:_MAX_REASON])
        self.expired = expired


class KeyUnknown(TokenRefused):
    """No key has the token's `kid`. Fetching the key set anew may help, as keys rotate."""


class Token(NamedTuple):
    """A token's parts. Only `algorithm` and `kid` may be used before the signature is checked.

    signed: what the signature is of.
    payload: still as it was sent; `json_object` reads it.
    """

    algorithm: str
    kid: str | None
    signed: bytes
    payload: str
    signature: bytes


def take_apart(token: str, max_bytes: int) -> Token:
    """Reads everything but the payload. Raises `TokenRefused`."""
    if len(token) > max_bytes:
        raise TokenRefused(f"the token is longer than {max_bytes} bytes")
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise TokenRefused("the token is not three parts of base64url with dots between them")
    header, payload, signature = parts.groups()
    algorithm, kid = _header(header)
    signed = token[: parts.end(2)].encode("ascii")
    return Token(algorithm, kid, signed, payload, _bytes(signature))


class _Header(NamedTuple):
    algorithm: str
    kid: str | None


# One issuer's headers are all alike. What strangers send in between costs them a parse each.
@lru_cache(maxsize=64)
def _header(segment: str) -> _Header:
    header = json_object(segment)
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise TokenRefused("the token's header has no alg")
    if not (kid is None or isinstance(kid, str)):
        raise TokenRefused("the token's kid is not a string")
    if "crit" in header or "b64" in header:
        raise TokenRefused("the token's header asks for an extension that is not known here")
    return _Header(algorithm, kid)


def _bytes(segment: str) -> bytes:
    # The last character may stand for fewer than six bits; the rest of it must be zero, or one
    # signature could be written in several ways (RFC 4648, section 3.5).
    tail = len(segment) % 4
    last = segment[-1]
    if tail == 1 or (tail == 2 and last not in "AQgw") or (tail == 3 and last not in _EVEN):
        raise TokenRefused("the token is not base64url")
    return urlsafe_b64decode(segment + "==")


_EVEN = "AEIMQUYcgkosw048"
"""The characters of base64 whose last two bits are zero."""


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Two readers could take one each (RFC 7519, section 4, allows to refuse it).
        raise TokenRefused("the token has a member twice")
    return members


def _no_number(name: str) -> NoReturn:
    raise TokenRefused(f"{name} is not JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_number)


def json_object(segment: str) -> dict[str, object]:
    """The JSON object that a part of a token stands for. Raises `TokenRefused`."""
    data = _bytes(segment)
    try:
        value = _JSON.decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise TokenRefused("the token does not hold JSON") from None
    if not isinstance(value, dict):
        raise TokenRefused("the token does not hold a JSON object")
    return cast("dict[str, object]", value)
