"""Rules of `[auth]`: somebody must be able to connect, and every key must be sound.

Keys are read here as the server will read them, so that a configuration that passes does not fail
at the start for a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from clarion_server.auth.keyset import (
    SECRET_BYTES,
    KeyRefused,
    pem_key,
    read_jwks,
    secret_key,
)
from clarion_server.config.files import BadFile, read_bytes
from clarion_server.option_values import MAKE_KEY, Conflict, is_loopback
from clarion_server.options import AuthOptions, Config, KeyOptions


def auth_conflicts(config: Config) -> Iterator[Conflict]:
    """Everything in `[auth]` that cannot work, or should not."""
    auth = config.auth
    if not (config.development or auth.anonymous):
        yield from _somebody(auth)
    if auth.secret:
        yield from _sound("auth.secret", lambda: secret_key(auth.secret.encode(), "HS256"))
    yield from _keys(auth)
    yield from _key_sets(auth)
    if not auth.algorithms:
        yield Conflict(("auth.algorithms",), "is empty: no token would be accepted", "algorithms")
    for name in ("subscribe_claim", "publish_claim"):
        if not getattr(auth, name):
            yield Conflict((f"auth.{name}",), "is empty", "the name of a claim")


def _somebody(auth: AuthOptions) -> Iterator[Conflict]:
    if not (auth.secret or auth.keys or auth.jwks_file or auth.jwks_url):
        yield Conflict(
            ("auth", "auth.secret", "auth.keys", "auth.jwks_file", "auth.jwks_url"),
            "nobody could connect: there is no key to check tokens with, and anonymous is false",
            "secret, [[auth.keys]], jwks_file, jwks_url, or anonymous = true",
        )


def _keys(auth: AuthOptions) -> Iterator[Conflict]:
    seen = {("", "HS256")} if auth.secret else set[tuple[str, str]]()
    for place, key in enumerate(auth.keys):
        path = f"auth.keys[{place}]"
        yield from _key(path, key)
        if (key.kid, key.algorithm) in seen:
            problem = f"there is another key for {key.algorithm} with the kid {key.kid!r}"
            yield Conflict((f"{path}.kid", f"{path}.algorithm"), problem, "a kid of its own")
        seen.add((key.kid, key.algorithm))
        if key.algorithm not in auth.algorithms:
            yield Conflict(
                (f"{path}.algorithm", "auth.algorithms"),
                f"{key.algorithm} is not in auth.algorithms",
                "one that is, or a longer list there",
            )


def _key(path: str, key: KeyOptions) -> Iterator[Conflict]:
    given = [name for name in ("secret", "secret_file", "public_key_file") if getattr(key, name)]
    of_secret = key.algorithm in SECRET_BYTES
    fitting = "secret or secret_file" if of_secret else "public_key_file"
    if len(given) != 1:
        problem = f"has {' and '.join(given)}" if given else "has no key"
        parts = ("secret", "secret_file", "public_key_file", "algorithm")
        yield Conflict(
            (path, *(f"{path}.{part}" for part in parts)), problem, f"exactly one: {fitting}"
        )
        return
    name = given[0]
    place = f"{path}.{name}"
    if of_secret == (name == "public_key_file"):
        problem = f"does not go with {key.algorithm}"
        yield Conflict((place, f"{path}.algorithm"), problem, fitting)
    elif name == "secret":
        yield from _sound(place, lambda: secret_key(key.secret.encode(), key.algorithm))
    elif name == "secret_file":
        yield from _sound(place, lambda: secret_key(secret_in(key.secret_file), key.algorithm))
    else:
        yield from _sound(
            place, lambda: pem_key(read_bytes(Path(key.public_key_file)), key.algorithm)
        )


def secret_in(path: str) -> bytes:
    """The secret that a file holds: its text less the line break that editors end it with.

    In random bytes, 10 is one like any other, and stays. Raises `BadFile`.
    """
    content = read_bytes(Path(path))
    return content.rstrip(b"\r\n") if content.isascii() else content


def _sound(place: str, read: Callable[[], object]) -> Iterator[Conflict]:
    """Whether the key at `place` can be read."""
    try:
        read()
    except BadFile as error:
        yield Conflict((place,), str(error), "a file that can be read")
    except KeyRefused as error:
        too_short = "needs at least" in str(error)
        yield Conflict((place,), str(error), f"a longer one; {MAKE_KEY}" if too_short else "")


def _key_sets(auth: AuthOptions) -> Iterator[Conflict]:
    path, url = auth.jwks_file, auth.jwks_url
    if path:
        yield from _sound(
            "auth.jwks_file",
            lambda: read_jwks(read_bytes(Path(path)), auth.algorithms, symmetric=True),
        )
    if url and (problem := _why_not_fetched(url)):
        yield Conflict(
            ("auth.jwks_url",),
            problem,
            "https://... or, to a loopback address, http://...; no user name or password",
        )


def _why_not_fetched(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        named = parts.username is not None or parts.password is not None
    except ValueError:
        return "is not a URL"
    if named:
        return "holds a user name or password"
    if host and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
        return ""
    return "is not https: whoever is in between could put in a key of their own"
