"""Real Redis servers: each a process on a port and in a directory of its own, on the loopback.

Starting one takes about 20 ms. None outlives the tests, not even tests that are killed (on Linux).
Nothing here belongs to an event loop: a server may serve tests of several.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import hiredis

from support.certificates import write_certificate
from support.free_ports import FreePort
from support.waiting import DEADLINE

REPLY_SECONDS = 5.0
"""How long a command may take, unless it says otherwise."""


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = DEADLINE) -> None:
    """Waits for what only asking can tell. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.005)


def program() -> str:
    """The server to run: the one that `make test` has found, else the first in the PATH."""
    linked = Path(sys.executable).with_name("redis-server")
    found = (
        (str(linked) if linked.exists() else None)
        or shutil.which("redis-server")
        or shutil.which("valkey-server")
    )
    assert found, "no redis-server: `make test` installs one or says how"
    return found


class Started:
    """What `async with` starts, and ends with all it has."""

    async def start(self) -> Self:
        """Returns when it serves."""
        raise NotImplementedError

    def end(self) -> None:
        """Kills it. It cannot be started again."""
        raise NotImplementedError

    async def close(self) -> None:
        self.end()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()


class RedisServer(Started):
    """One server. `async with RedisServer() as server:` starts it, and ends it with all it has.

    appendonly: whether it has its data on disk, and so can be restarted with them.
    tls: whether it speaks TLS and nothing else, with a certificate that `authority` vouches for.
    unixsocket: whether `url` is that of a socket in the file system; the port is served as well.
    config: further lines of its configuration file.
    sentinel: whether it is a sentinel instead.
    """

    def __init__(
        self,
        *config: str,
        appendonly: bool = False,
        password: str = "",
        tls: bool = False,
        unixsocket: bool = False,
        sentinel: bool = False,
    ) -> None:
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="clarion-redis-"))
        self._claim = FreePort()
        self._appendonly = appendonly
        self._tls = tls
        self._unixsocket = unixsocket
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self._file = self.directory / "redis.conf"
        self._data = self.directory / "data"
        self._data.mkdir()
        self._context: ssl.SSLContext | None = None
        if tls:
            write_certificate(self.directory)
            self._context = ssl.create_default_context(cafile=self.authority)
        self._file.write_text("\n".join([*self._lines(), *config, ""]))

    # Addresses

    @property
    def port(self) -> int:
        """The same over all restarts."""
        return self._claim.number

    @property
    def url(self) -> str:
        """Where clients find database 0, with all that they need to be let in."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        if self._unixsocket:
            return f"unix://{secret}{self.socket}"
        if self._tls:
            return f"rediss://{secret}127.0.0.1:{self.port}/0?ssl_ca_certs={self.authority}"
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> Path:
        """The socket in the file system, if it has one."""
        return self.directory / "redis.sock"

    @property
    def authority(self) -> Path:
        """The certificate that clients must trust, as PEM, if it speaks TLS."""
        return self.directory / "certificate.pem"

    # Its life

    @property
    def running(self) -> bool:
        """Also when it is stopped."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> Self:
        """Returns when it answers."""
        assert not self.running
        self._spawn()
        try:
            await eventually(self._answers)
        except BaseException:
            self.end()
            raise
        return self

    def kill(self) -> None:
        """Ends it at once, as SIGKILL does; what it has on disk stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """It does nothing any more, with its connections open; even new ones are accepted."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends what `stop` began."""
        os.kill(self.pid, signal.SIGCONT)

    async def restart(self, keep_data: bool) -> None:
        """Starts it anew, killed or not, on the same port, with the data it had or without."""
        assert self._appendonly or not keep_data, "it has no data on disk"
        self.kill()
        if not keep_data:
            shutil.rmtree(self._data)
            self._data.mkdir()
        await self.start()

    def end(self) -> None:
        """Kills it and forgets all it had. It cannot be started again."""
        self.kill()
        self._claim.release()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Commands

    async def command(self, *words: str | bytes | int, seconds: float = REPLY_SECONDS) -> Any:
        """The reply to a command, on a connection of its own; bulk strings are text.

        Raises `hiredis.ReplyError`, `OSError` and, when there is no reply in time, `TimeoutError`.
        """
        async with asyncio.timeout(seconds):
            if self._unixsocket:
                reader, writer = await asyncio.open_unix_connection(self.socket)
            else:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, ssl=self._context
                )
            try:
                replies = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
                if self.password:
                    writer.write(_packed("AUTH", self.password))
                    await _reply(reader, replies)
                writer.write(_packed(*words))
                return await _reply(reader, replies)
            finally:
                writer.transport.abort()

    async def info(self, section: str) -> dict[str, str]:
        """The fields of a section of INFO."""
        lines = (await self.command("INFO", section)).split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line)

    # How it is started

    def _lines(self) -> list[str]:
        """Its configuration."""
        lines = [
            "bind 127.0.0.1",
            "protected-mode yes",
            f"dir {self._data}",
            f"logfile {self.directory / 'log'}",
        ]
        if self._tls:
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {self.authority}",
                f"tls-key-file {self.directory / 'key.pem'}",
                f"tls-ca-cert-file {self.authority}",
                "tls-auth-clients no",
            ]
        else:
            lines.append(f"port {self.port}")
        if self._unixsocket:
            lines += [f"unixsocket {self.socket}", "unixsocketperm 700"]
        if self.password:
            lines.append(f"requirepass {json.dumps(self.password)}")
        if not self._sentinel:
            lines += ['save ""', f"appendonly {'yes' if self._appendonly else 'no'}"]
        return lines

    def _spawn(self) -> None:
        # The kernel kills it when the thread that starts it ends. Not by `preexec_fn`, which
        # would fork this process with all its threads.
        guard = shutil.which("setpriv") if sys.platform == "linux" else None
        with (self.directory / "errors").open("ab") as errors:
            self._process = subprocess.Popen(
                [
                    *((guard, "--pdeathsig", "KILL") if guard else ()),
                    *(program(), self._file),
                    *(("--sentinel",) if self._sentinel else ()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    async def _answers(self) -> bool:
        assert self.running, f"redis-server ended:\n{self.log()}"
        try:
            await self.command("PING")
        except (OSError, hiredis.ReplyError):  # not yet listening, or loading
            return False
        return True

    def log(self) -> str:
        """What it has said."""
        files = (self.directory / "errors", self.directory / "log")
        return "".join(file.read_text() for file in files if file.exists())


def _packed(*words: str | bytes | int) -> bytes:
    """A command, as it goes over the wire."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(
        b"$%d\r\n%b\r\n" % (len(part), part) for part in parts
    )


async def _reply(reader: asyncio.StreamReader, replies: hiredis.Reader) -> Any:
    while (reply := replies.gets()) is False:
        data = await reader.read(65536)
        if not data:
            raise ConnectionResetError("Redis has closed the connection")
        replies.feed(data)
    if isinstance(reply, Exception):
        raise reply
    return reply
