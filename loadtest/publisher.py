"""The backend: posts batches to the private API, several at a time, without waiting."""

from __future__ import annotations

import contextlib
import select
import socket

SEND_BUFFER = 1 << 20
"""Room for a whole batch in the kernel, so that handing it over never waits for the server."""


class Publisher:
    """One keep-alive connection for each request in flight, all under the crowd's epoll."""

    def __init__(self, epoll: select.epoll, port: int, connections: int, path: str) -> None:
        self._head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode()
        self._heard: dict[int, bytes] = {}
        self._sockets: dict[int, socket.socket] = {}
        self.idle: list[int] = []
        self.answered = 0
        self.errors: list[str] = []
        self._epoll = epoll
        self._port = port
        for _ in range(connections):
            self._connect()

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[connection.fileno()] = connection
        self.idle.append(connection.fileno())
        self._epoll.register(connection, select.EPOLLIN)

    def owns(self, fd: int) -> bool:
        """Whether an event for this descriptor is the publisher's."""
        return fd in self._sockets

    def post(self, body: bytes) -> None:
        """Sends a request over an idle connection; there must be one."""
        fd = self.idle[0]  # each in its turn: an unused one would be closed
        with contextlib.suppress(BlockingIOError):
            self._sockets[fd].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            self.read(fd)  # it was closed all the same, and another one takes its place
        fd = self.idle.pop(0)
        self._heard[fd] = b""
        head = b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._sockets[fd].sendall(head % (self._head, len(body)) + body)

    def read(self, fd: int) -> None:
        """Takes (a part of) the answer. Counts it when it is whole."""
        data = self._sockets[fd].recv(1 << 20)
        if not data and fd in self.idle:
            # Unused for longer than the server keeps a connection.
            self.idle.remove(fd)
            self._sockets.pop(fd).close()
            self._connect()
            return
        heard = self._heard[fd] = self._heard.get(fd, b"") + data
        head, found, body = heard.partition(b"\r\n\r\n")
        if not data:
            raise SystemExit(f"the API closed the connection after {heard[:200]!r}")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        if not head.startswith(b"HTTP/1.1 200") or b'"error"' in body:
            self.errors.append((head.split(b"\r\n")[0] + b" " + body[:200]).decode())
        self.answered += 1
        self.idle.append(fd)

    def close(self) -> None:
        for connection in self._sockets.values():
            self._epoll.unregister(connection)
            connection.close()
