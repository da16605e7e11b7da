"""Clients and their sockets as a hub sees them, without sockets.

A `Socket` writes down what a real one would be sent. It can be given little room, or be dead; then
it behaves as a connection does: it falls behind and catches up, or leaves. That it is never
written to past its own buffer, nor after it left, is checked with every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from clarion_fanout.hub import Form, Hub, Receiver, Topic
from clarion_fanout.publication import Publication


class Lines:
    """A wire form: ``name|topic|data;``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.encoded = 0
        """How often a publication was encoded."""

    def encode(self, publication: Publication) -> bytes:
        if publication.form is self:
            return publication.frame
        others = publication.others
        frame = others.get(self) if others else None
        if frame is None:
            self.encoded += 1
            frame = b"%b|%b|%b;" % (
                self.name.encode(),
                publication.topic.encode(),
                publication.data,
            )
            publication.keep(self, frame)
        return frame


class Socket:
    """A connected client that writes down what it gets.

    alone: it never takes bytes together with others, as its own differ.
    """

    def __init__(self, hub: Hub, key: int, form: Lines, *, alone: bool = False) -> None:
        self.key = key
        self.form: Form = form
        self.bulk = not alone
        self.topics: list[Topic] = []
        self.writes: list[bytes] = []
        """What the kernel took, call by call."""
        self.delivered: list[tuple[str, int]] = []
        """Calls of `deliver`: the topic and how many publications."""
        self.room: int | None = None
        """What the kernel takes before it is full; None: everything."""
        self.patience: int | None = None
        """Frames that may wait before the client is given up; None: any number."""
        self.dead = False
        """Whether the next write finds the connection broken."""
        self.catches_up_at_once = False
        """Whether what was cut off finds room as soon as the client has fallen behind."""
        self.left = False
        self._name = form.name
        self._alone = alone
        self._hub = hub
        self._waiting: list[bytes] = []
        self._got: list[tuple[str, str]] = []
        self._partial = b""

    @property
    def behind(self) -> bool:
        return bool(self._waiting)

    def got(self, topic: str) -> list[str]:
        """The data of every publication of `topic` that arrived whole, in order."""
        return [data for name, data in self._got if name == topic]

    def write(self, payload: bytes) -> int:
        """What the kernel takes of `payload`, or -1 if the connection is broken."""
        assert not self.left, "written to after it left"
        assert not self._waiting, "written to past what waits for it"
        if self.dead:
            return -1
        size = len(payload) if self.room is None else min(self.room, len(payload))
        if self.room is not None:
            self.room -= size
        self.writes.append(payload[:size])
        *frames, self._partial = (self._partial + payload[:size]).split(b";")
        for frame in frames:
            form, topic, data = frame.decode().split("|")
            assert form == self._name, "another form's bytes"
            self._got.append((topic, data.strip()))
        return size

    def cut_short(self, payload: bytes, written: int) -> None:
        """Of `payload` only so much was taken."""
        if written < 0:
            self.leave()
            return
        self._hub.set_bulk(self, False)
        self._waiting.append(payload[written:])
        if self.catches_up_at_once:
            self.catch_up()

    def deliver(self, topic: Topic, publications: Sequence[Publication]) -> None:
        assert not self.left, "delivered to after it left"
        self.delivered.append((topic.name, len(publications)))
        self.replay(publications)

    def replay(self, publications: Sequence[Publication]) -> None:
        """Sends publications to this client alone."""
        for publication in publications:
            frame = self.form.encode(publication)
            if self.left:
                return
            if self._waiting:
                self._waiting.append(frame)
                if self.patience is not None and len(self._waiting) > self.patience:
                    self.leave()
            else:
                written = self.write(frame)
                if written != len(frame):
                    self.cut_short(frame, written)

    def catch_up(self) -> None:
        """The client reads everything, and has room again."""
        self.room = None
        waiting, self._waiting = self._waiting, []
        if waiting and self.write(b"".join(waiting)) < 0:
            self.leave()
        elif not self.left:
            self._hub.set_bulk(self, not self._alone)

    def leave(self) -> None:
        self._hub.leave(self)
        self.left = True


class Sockets:
    """The hub's outlet."""

    def broadcast(self, receivers: Mapping[int, Receiver], payload: bytes) -> None:
        short: list[tuple[Socket, int]] = []
        for key, receiver in receivers.items():
            socket = cast(Socket, receiver)
            assert socket.key == key
            written = socket.write(payload)
            if written != len(payload):
                short.append((socket, written))
        for socket, written in short:
            socket.cut_short(payload, written)

    def scatter(
        self, payloads: Mapping[int, bytes], receivers: Callable[[], Mapping[int, Receiver]]
    ) -> None:
        found = receivers()
        for key, payload in payloads.items():
            socket = cast(Socket, found[key])
            assert socket.key == key
            written = socket.write(payload)
            if written != len(payload):
                socket.cut_short(payload, written)
