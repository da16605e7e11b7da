"""The keys in force: those configured, those in a JWKS file, those that a JWKS URL publishes.

`find` and `has` are all that checking a token takes; they never wait. Everything that reads a
file or asks another server happens in `start` and in `run`, which the application puts into its
TaskGroup:

- the file is looked at every few seconds and read when it was changed or replaced;
- the URL is asked again before what it gave is `jwks_cache_s` old. When it does not answer well,
  the keys that are known stay, the failure is counted, and it is asked again, less and less often;
- `refetch` makes `run` do both now. It is for tokens with an unknown `kid`, which anyone can
  make up: one round serves all who wait, and there is one every ten seconds at most.

What a source no longer lists is no longer accepted, as soon as that has been read.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from clarion_server.auth.key_sources import (
    JwksFile,
    JwksUrl,
    KeysError,
    Source,
    SourceFailed,
    configured_keys,
)
from clarion_server.auth.keyset import Key, KeyRefused, KeySet, read_jwks
from clarion_server.options import AuthOptions

__all__ = ["KeyRing", "KeysError"]

_log = logging.getLogger(__name__)


class KeyRing:
    """Keys by `kid` and algorithm, kept up to date by `run`.

    failures: how often a key set could not be read since the start.
    fetches: how often one was read well.
    """

    def __init__(
        self,
        options: AuthOptions,
        *,
        file_s: float = 5.0,
        refetch_s: float = 10.0,
        retry_s: float = 5.0,
    ) -> None:
        """Reads nothing yet. Raises `KeysError` for a `jwks_url` that is not to be trusted.

        file_s: between two looks at the file: soon enough for a rotation by hand.
        refetch_s: between two rounds that unknown keys may cause.
        retry_s: after the first failure in a row; then twice as long each time, up to the cache's.
        """
        self._options = options
        self._refetch_s = refetch_s
        self._followed: list[_Followed] = []
        if options.jwks_file:
            self._followed.append(_Followed(JwksFile(options.jwks_file, file_s)))
        if options.jwks_url:
            self._followed.append(_Followed(JwksUrl(options, retry_s)))
        self._configured: tuple[Key, ...] = ()
        self._listed: list[Key] = []
        self._keys = KeySet()
        self._version = 0
        self._wake = asyncio.Event()
        self._round: asyncio.Event | None = None
        self._refetch_from = 0.0
        self._closed = False
        self.failures = 0
        self.fetches = 0

    def has(self, kid: str) -> bool:
        """Whether there is a key named `kid`, for whatever algorithm."""
        return self._keys.has(kid)

    def find(self, algorithm: str, kid: str | None) -> tuple[Key, ...]:
        """See `KeySet.find`."""
        return self._keys.find(algorithm, kid)

    @property
    def renewable(self) -> bool:
        """Whether there is a source that may bring new keys."""
        return bool(self._followed)

    @property
    def loaded(self) -> bool:
        """Whether every source has been read at least once."""
        return all(followed.keys for followed in self._followed)

    async def start(self) -> None:
        """Reads all keys. Raises `KeysError` when one that is configured here cannot be used.

        A URL that does not answer is no reason not to start: the server may just be up before
        the identity provider is. `run` goes on asking.
        """
        self._configured = await asyncio.to_thread(configured_keys, self._options)
        for followed in self._followed:
            try:
                await self._refresh(followed)
            except SourceFailed as error:
                if isinstance(followed.source, JwksFile):
                    raise KeysError(str(error)) from None
        self._renew()

    async def close(self) -> None:
        """Ends every `refetch` that waits. A second call does nothing."""
        self._closed = True
        if self._round is not None:
            self._round.set()

    async def run(self) -> None:
        """Keeps the keys up to date, until it is cancelled. Returns when nothing can change."""
        loop = asyncio.get_running_loop()
        while self._followed:
            pause = min(followed.due for followed in self._followed) - loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause)):
                    await self._wake.wait()
            self._wake.clear()
            asked = self._round
            for followed in self._followed:
                if asked is not None or followed.due <= loop.time():
                    with suppress(SourceFailed):
                        await self._refresh(followed)
            self._renew()
            if asked is not None:
                asked.set()
                if self._round is asked:
                    self._round = None

    async def refetch(self) -> bool:
        """Has `run` read all sources now, and says whether the keys have changed.

        Callers that come while a round is under way share it; others within the ten seconds after
        one are told False at once. It may be cancelled without a consequence for others.
        """
        loop = asyncio.get_running_loop()
        if self._closed or not self._followed:
            return False
        if self._round is None:
            if loop.time() < self._refetch_from:
                return False
            self._refetch_from = loop.time() + self._refetch_s
            self._round = asyncio.Event()
            self._wake.set()
        version, asked = self._version, self._round
        # A round that began before may have to run into its deadline first.
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._options.jwks_timeout_s + 1):
                await asked.wait()
        return self._version != version

    async def _refresh(self, followed: _Followed) -> None:
        source = followed.source
        try:
            document = await source.read()
            if document is not None and document != followed.document:
                # A large set takes milliseconds, and the loop has none to spare.
                followed.keys = await asyncio.to_thread(self._parsed, source, document)
                followed.document = document
            self.fetches += document is not None
        except SourceFailed as error:
            self.failures += 1
            followed.failures += 1
            _log.warning("%s, the keys that are known stay in force", error)
            raise
        else:
            followed.failures = 0
        finally:
            followed.due = asyncio.get_running_loop().time() + source.pause(followed.failures)

    def _parsed(self, source: Source, document: bytes) -> tuple[Key, ...]:
        try:
            jwks = read_jwks(document, self._options.algorithms, symmetric=source.symmetric)
        except KeyRefused as error:
            raise SourceFailed(f"{source.option} {error}") from None
        for reason in jwks.refused[:10]:
            _log.warning("%s: %s", source.option, reason)
        return jwks.keys

    def _renew(self) -> None:
        keys = [*self._configured]
        for followed in self._followed:
            keys += followed.keys
        if keys != self._listed:
            self._listed = keys
            self._keys = KeySet(keys)
            self._version += 1


class _Followed:
    """A source, and what was last read from it."""

    __slots__ = ("document", "due", "failures", "keys", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.document = b""
        self.keys: tuple[Key, ...] = ()
        self.failures = 0
        """In a row."""
        self.due = 0.0
        """When to read it again, on the loop's clock."""
