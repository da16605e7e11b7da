"""The floor: a loop of sends and nothing else, in C (bare.c) and in Python (here)."""

from __future__ import annotations

import platform
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.carriers import has_compiler
from loadtest.peers.peer import HERE, Peer
from loadtest.peers.shelf import SHELF, CannotInstall


def serve(port: int, back: int) -> None:
    """bare.c in Python."""
    front, behind = (
        socket.create_server(("127.0.0.1", each), backlog=4096) for each in (port, back)
    )
    epoll = select.epoll()
    epoll.register(front, select.EPOLLIN)
    epoll.register(behind, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    sends: dict[int, socket.socket] = {}
    backend: socket.socket | None = None
    rest = b""
    while True:
        for fd, _ in epoll.poll():
            if fd == front.fileno():
                client, _ = front.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                epoll.register(client, select.EPOLLIN)
            elif fd == behind.fileno():
                backend, _ = behind.accept()
                epoll.register(backend, select.EPOLLIN)
            elif backend and fd == backend.fileno():
                data = backend.recv(1 << 20)
                if not data:
                    epoll.unregister(fd)
                    backend.close()
                    backend, rest = None, b""
                    continue
                *lines, rest = (rest + data).split(b"\n")
                joined = b"".join(_frame(line.partition(b" ")[2]) for line in lines)
                for client in sends.values():
                    client.sendall(joined)
            elif data := clients[fd].recv(4096):
                if data.startswith(b"GET "):
                    clients[fd].sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                else:
                    clients[fd].sendall(b"\x81\x02ok")
                    sends[fd] = clients[fd]
            else:
                sends.pop(fd, None)
                epoll.unregister(fd)
                clients.pop(fd).close()


def _frame(data: bytes) -> bytes:
    if len(data) < 126:
        return bytes([0x81, len(data)]) + data
    return b"\x81\x7e" + len(data).to_bytes(2, "big") + data


class CLoop(Peer):
    name = "C loop"
    setting = "send() in a loop: no topics, no checks, nothing kept"

    def install(self) -> str:
        return f"bare.c, {self._compiled()[1]}"

    def _compiled(self) -> tuple[Path, str]:
        if not has_compiler():
            raise CannotInstall("there is no C compiler (cc)")
        source, program = HERE / "bare.c", SHELF / "bare"
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            SHELF.mkdir(exist_ok=True)
            subprocess.run(["cc", "-O2", "-Wall", "-o", program, source], check=True)
        text = subprocess.check_output(["cc", "--version"], text=True)
        return program, text.splitlines()[0]

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        return [str(self._compiled()[0]), str(port), str(back)]


class PythonLoop(Peer):
    name = "Python loop"
    setting = "socket.sendall in a loop: no topics, no checks, nothing kept"

    def install(self) -> str:
        return f"bare.py, Python {platform.python_version()}"

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        code = "from loadtest.peers.bare import serve; import sys; serve(*map(int, sys.argv[1:]))"
        return [sys.executable, "-c", code, str(port), str(back)]
