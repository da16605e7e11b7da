"""The names of everything that Clarion keeps in Redis.

What belongs to one topic carries the name of its channel as a hash tag, so that in a cluster it
is all in the slot of the channel: one script can work on it, and `SPUBLISH` reaches it.

    clarion:t:<topic>                 the channel
    clarion:h:{clarion:t:<topic>}     the stream
    clarion:m:{clarion:t:<topic>}     its epoch, offset, reign and lineage
    clarion:i:{clarion:t:<topic>}:<key>   a publisher's idempotency key
    clarion:p:{clarion:t:<topic>}:m, :c   its members, or how many of each worker
    clarion:p:{clarion:t:<topic>}:l, :cl  until when these workers are to be believed
    clarion:inbox, clarion:inbox:dead     what backends want published
    clarion:o:{clarion:inbox}         the worker that publishes it, for now
    clarion:e:{clarion:t:<topic>}:...     an entry of an inbox that was published
    clarion:probe:<worker>:<n>        channels of probes
    clarion:workers                   who is there, and until when
    clarion:control                   what is asked of all workers
    clarion:control:<worker>          what is answered to one

A payload on a topic's channel begins with `#` or `%` when a worker published it (see publish.lua),
with `>` or `<` when a member joined or left (presence.lua), and is `!` when listeners are to look
at the stream (seal.lua); JSON cannot begin so. Everything else is what a backend published itself:
the data and nothing else, or `@`, a conflation key, a space and the data.

In a cluster the last three exist several times, in slots of different nodes: there `lane` follows
on their first two parts. See `redis_lanes`.
"""

from __future__ import annotations


class Keys:
    """Names that begin with `prefix`."""

    def __init__(self, prefix: str = "clarion") -> None:
        self.prefix = prefix
        self._channel = f"{prefix}:t:".encode()
        self._stream = f"{prefix}:h:{{{prefix}:t:".encode()
        self._meta = f"{prefix}:m:{{{prefix}:t:".encode()
        self._key = f"{prefix}:i:{{{prefix}:t:".encode()
        self._presence = f"{prefix}:p:{{{prefix}:t:".encode()
        self.inbox = f"{prefix}:inbox".encode()
        self.dead = f"{prefix}:inbox:dead".encode()
        self.owner = f"{prefix}:o:{{{prefix}:inbox}}".encode()
        self._entry = f"{prefix}:e:{{{prefix}:t:".encode()
        self._control = f"{prefix}:control".encode()
        self._workers = f"{prefix}:workers".encode()

    def channel(self, topic: str) -> bytes:
        return self._channel + topic.encode()

    def topic(self, channel: bytes) -> str:
        """The topic whose channel this is."""
        return channel[len(self._channel) :].decode()

    def stream(self, topic: str) -> bytes:
        return b"%b%b}" % (self._stream, topic.encode())

    def meta(self, topic: str) -> bytes:
        return b"%b%b}" % (self._meta, topic.encode())

    def key(self, topic: str, key: str) -> bytes:
        return b"%b%b}:%b" % (self._key, topic.encode(), key.encode())

    def entry(self, topic: str, mark: bytes) -> bytes:
        return b"%b%b}:%b" % (self._entry, topic.encode(), mark)

    def presence(self, topic: str) -> bytes:
        """What the names of a topic's presence begin with."""
        return b"%b%b}" % (self._presence, topic.encode())

    def probe(self, worker: str, number: int = 0) -> bytes:
        return f"{self.prefix}:probe:{worker}:{number}".encode()

    def lane(self, topic: str) -> bytes:
        """What puts the following names into the slot of a topic."""
        return b":{%b}" % self.channel(topic)

    def questions(self, lane: bytes = b"") -> bytes:
        """The channel of what is asked of all workers."""
        return self._control + lane

    def answers(self, worker: str, lane: bytes = b"") -> bytes:
        """The channel of what is answered to a worker."""
        return b"%b%b:%b" % (self._control, lane, worker.encode())

    def roll(self, lane: bytes = b"") -> bytes:
        """The roll of the workers; see lease.lua."""
        return self._workers + lane
