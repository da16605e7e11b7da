"""Where keys come from: the configuration and its files, a JWKS file, a JWKS URL.

Whoever can change what a source holds can log in as anyone. So the URL must be https (plain http
only to this machine), is asked for exactly that address, and what it answers is bounded in time
and size.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from clarion_server.auth.keyset import Key, KeyRefused, pem_key, secret_key
from clarion_server.options import AuthOptions, KeyOptions

MAX_JWKS_BYTES = 1024 * 1024
"""A hundred keys with their certificates take about half of that."""

_REFRESH = (0.7, 0.8)
"""The part of `jwks_cache_s` after which the URL is asked again: leaves time for another try or
two, and varies so that the workers of a fleet do not all ask at once."""

_SPREAD = (0.8, 1.2)
"""Of the pauses after a failure, for the same reason."""


class KeysError(Exception):
    """A configured key cannot be used. The text names the option, and holds no part of a key."""


class SourceFailed(Exception):
    """A key set could not be read this time."""


class Source(Protocol):
    """A JWKS that is read again and again. `option` is the name of what configures it."""

    option: str
    symmetric: bool

    async def read(self) -> bytes | None:
        """The document, or None when it is known not to have changed. Raises `SourceFailed`."""
        ...

    def pause(self, failures: int) -> float:
        """Seconds to the next `read` after so many failures in a row."""
        ...


class JwksFile:
    """A key set in a file, which may hold shared secrets too; read when it was changed."""

    option = "auth.jwks_file"
    symmetric = True

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._seen: tuple[int, int, int] | None = None

    async def read(self) -> bytes | None:
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes | None:
        try:
            # Before it is read: a change in between is then seen the next time.
            stat = os.stat(self._path)
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return None
            document = _read_file(self._path)
        except OSError as error:
            raise SourceFailed(f"{self.option} cannot be read: {error.strerror}") from None
        self._seen = seen
        return document

    def pause(self, failures: int) -> float:
        return self._seconds


class JwksUrl:
    """A key set that an identity provider publishes: public keys only."""

    option = "auth.jwks_url"
    symmetric = False

    def __init__(self, options: AuthOptions, retry_s: float) -> None:
        _check_url(options.jwks_url)
        self._url = options.jwks_url
        self._cache_s = options.jwks_cache_s
        self._timeout_s = options.jwks_timeout_s
        self._retry_s = retry_s

    async def read(self) -> bytes | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch()
        except TimeoutError:
            raise self._failed(f"no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its text may quote what the other side sent.
            raise self._failed(type(error).__name__) from None

    async def _fetch(self) -> bytes:
        # A session for each fetch: one every few minutes has no use for a pool. Compression would
        # have to be bounded too, and a redirect could lead from https to anywhere.
        async with (
            aiohttp.ClientSession(
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.get(self._url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise self._failed(f"status {answer.status}")
            document = bytearray()
            async for chunk in answer.content.iter_any():
                document += chunk
                if len(document) > MAX_JWKS_BYTES:
                    raise self._failed(f"more than {MAX_JWKS_BYTES} bytes")
            return bytes(document)

    def _failed(self, reason: str) -> SourceFailed:
        return SourceFailed(f"{self.option} was not fetched: {reason}")

    def pause(self, failures: int) -> float:
        if failures:
            # 2.0 ** 16 is beyond every cache time there may be.
            wait = self._retry_s * 2.0 ** min(failures - 1, 16)
            return min(self._cache_s, wait) * random.uniform(*_SPREAD)
        return self._cache_s * random.uniform(*_REFRESH)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise KeysError("auth.jwks_url is not a URL") from None
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise KeysError("auth.jwks_url must be https, as whoever can change the answer can log in")
    if parts.username is not None or parts.password is not None:
        raise KeysError("auth.jwks_url must not hold a user name or password")


def configured_keys(options: AuthOptions) -> tuple[Key, ...]:
    """The keys of `auth.secret` and `[[auth.keys]]`. Reads files. Raises `KeysError`."""
    keys: list[Key] = []
    if options.secret:
        with _named("auth.secret"):
            keys.append(secret_key(options.secret.encode(), "HS256"))
    for place, configured in enumerate(options.keys):
        keys.append(_configured_key(f"auth.keys[{place}]", configured))
    for place, key in enumerate(keys):
        if any((key.kid, key.algorithm) == (other.kid, other.algorithm) for other in keys[:place]):
            raise KeysError(f"auth.keys: two keys for {key.algorithm} have the kid {key.kid!r}")
        if key.algorithm not in options.algorithms:
            raise KeysError(
                f"auth.algorithms leaves out {key.algorithm}, and there is a key for it"
            )
    return tuple(keys)


def _configured_key(name: str, key: KeyOptions) -> Key:
    if sum(map(bool, (key.secret, key.secret_file, key.public_key_file))) != 1:
        raise KeysError(f"{name} needs one of secret, secret_file and public_key_file")
    if key.secret:
        with _named(f"{name}.secret"):
            return secret_key(key.secret.encode(), key.algorithm, key.kid)
    if key.secret_file:
        with _named(f"{name}.secret_file"):
            return secret_key(_secret_in(key.secret_file), key.algorithm, key.kid)
    with _named(f"{name}.public_key_file"):
        return pem_key(_read_file(key.public_key_file), key.algorithm, key.kid)


@contextmanager
def _named(option: str) -> Generator[None]:
    """Turns what is wrong with a key into an error that names its option."""
    try:
        yield
    except KeyRefused as error:
        raise KeysError(f"{option} {error}") from None
    except OSError as error:
        raise KeysError(f"{option} cannot be read: {error.strerror}") from None


def _secret_in(path: str) -> bytes:
    # Editors and `echo` end a text with a line break. In random bytes, 10 is one like any other.
    content = _read_file(path)
    return content.rstrip(b"\r\n") if content.isascii() else content


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        content = file.read(MAX_JWKS_BYTES + 1)
    if len(content) > MAX_JWKS_BYTES:
        raise OSError(errno.EFBIG, "it is larger than 1 MiB")
    return content
