"""One keep-alive connection to the private HTTP API: the standard library's client, and deadlines.

There is one HTTP client in this package, and it is not ours. It blocks; the publisher for asyncio
runs it in a thread of its own, and as whole batches go through it, that costs next to nothing. An
asyncio client would be a dependency (and a large one) or an HTTP parser of our own.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl as ssl_module
import time
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from clarion_client.retry_after import retry_seconds
from clarion_client.tokens import check_token
from clarion_client.version import VERSION

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""An answer has some 60 bytes for each message of a batch; this is not one."""


class NoAnswer(Exception):
    """The request was perhaps carried out, perhaps not. The text says what is known."""


class Answer(NamedTuple):
    status: int
    retry_s: float | None
    body: bytes


class HttpLink:
    """Posts one request after another. Not for several threads at once.

    Raises `ValueError` for an address that is none.
    """

    def __init__(
        self, url: str, key: str | None, timeout_s: float, ssl: ssl_module.SSLContext | None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"{url!r} is no address of a private API: http://127.0.0.1:8001")
        if not timeout_s > 0:
            raise ValueError("timeout_s is more than 0 seconds")
        self.url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        self._host, self._port = parts.hostname, parts.port
        self._secure = parts.scheme == "https"
        self._ssl = ssl
        self._timeout_s = timeout_s
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": f"clarion-client/{VERSION}",
        }
        if key is not None:
            self._headers["Authorization"] = f"Bearer {check_token(key)}"
        self._connection: http.client.HTTPConnection | None = None
        self._process = 0

    def post(self, path: str, body: bytes) -> Answer:
        """Posts `body`, and returns the answer whatever its status. Raises `NoAnswer`."""
        if self._process != os.getpid():
            # After a fork the connection is the parent's, who goes on using it.
            self._connection, self._process = None, os.getpid()
        while True:
            kept = self._connection is not None
            try:
                return self._try(path, body)
            except TimeoutError:
                self.close()
                raise NoAnswer(f"no answer within {self._timeout_s:g} s") from None
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not kept:
                    raise NoAnswer(_reason(error)) from None
                # The server closed a connection that had been idle for long: no reason to wait.
                # The messages' keys make a second request harmless.

    def close(self) -> None:
        """The next request opens another connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _try(self, path: str, body: bytes) -> Answer:
        until = time.monotonic() + self._timeout_s
        if self._connection is None:
            self._connection = self._made()
        connection = self._connection
        connection.response_class = partial(_Response, until=until)  # type: ignore[assignment]
        if connection.sock is not None:
            connection.sock.settimeout(self._timeout_s)
        connection.request("POST", self._path + path, body, self._headers)
        response = connection.getresponse()
        parts: list[bytes] = []
        size = 0
        while part := response.read1(65_536):
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise http.client.HTTPException("an answer without an end")
        response.close()  # `read1` leaves it open at its end, and the connection busy
        retry_s = retry_seconds(response.headers.get("Retry-After", ""), time.time())
        return Answer(response.status, retry_s, b"".join(parts))

    def _made(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        context = self._ssl or ssl_module.create_default_context()
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=context
        )


class _Response(http.client.HTTPResponse):
    """An answer that must be there in time, all of it. The library's own deadline begins anew with
    every byte, of the head as well."""

    def __init__(self, sock: socket.socket, *, method: str, until: float) -> None:
        super().__init__(sock, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(sock, until))


class _Timed(io.RawIOBase):
    """What comes out of a socket until a time."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._socket = sock
        self._file = sock.makefile("rb", buffering=0)  # which keeps the socket open
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
