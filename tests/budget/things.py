"""The things that have a budget: what a worker executes for one, and keeps for a connection.

What is executed for one of many is the difference between many and few, divided: what comes once
a turn, or once a publication, is left out. So is everything that the event loop does in C.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from budget.meter import Work
from budget.stand import DEADLINE, Client, Stand
from clarion_fanout.publication import Draft, Publication
from support.wire import command, handshake

Figures = dict[str, dict[str, float]]
"""By the name of the thing, and what was counted."""

FEW, MANY = 20, 120
"""Subscribers."""

ROUND_FEW, ROUND_MANY = 5, 35
"""Messages at once: they fit the first buffer of Redis, 16 KiB, and so one read."""

SLOW_FEW, SLOW_MANY = 5, 25
"""Subscribers that are behind, of which each is given some 300 KB."""

IDLE_FEW, IDLE_MANY = 100, 400
"""Connections whose memory is counted."""

END = b"~"
"""What the data of every publication ends with, and nothing else contains."""

DATA = b'{"text":"%b"}' % (b"x" * 243 + END)
"""256 bytes."""

BIG = b'{"text":"%b"}' % (b"x" * 60_000)
"""Data without an end, which nobody reads."""

OURS = [tracemalloc.Filter(True, f"*/{name}/*") for name in ("clarion_server", "clarion_fanout")]
"""What our own code allocates."""

WHEEL = tracemalloc.Filter(False, "*/clarion_server/wheel.py")
"""But for the wheel's sets, some 80 bytes a connection: how large they are depends on when who has
come."""


def of_one(few: Work, many: Work, more: int) -> dict[str, float]:
    """What one takes, when `more` make this difference."""
    return shown((many - few).times(1 / more))


def shown(work: Work) -> dict[str, float]:
    return {kind: round(figure, 2) for kind, figure in work.items()}


# With the embedded broker


def embedded(stand: Stand) -> Figures:
    """Everything that needs no Redis."""
    figures: Figures = {}
    if stand.callgrind is None:
        figures["idle connection"] = _idle(stand)
        stand.close()
    figures |= _fan_out(stand)
    stand.close()
    figures["delivery to one behind"] = _behind(stand)
    stand.close()
    figures["handshake, welcome, subscribe"] = shown(stand.each(lambda: stand.subscriber("bare:1")))
    stand.close()
    return figures | _api(stand)


def _idle(stand: Stand) -> dict[str, float]:
    """Memory that our own code allocates for a connection, and in how many pieces."""
    tracemalloc.start()
    try:
        sizes: list[tuple[int, int]] = []
        for count in (IDLE_FEW, IDLE_MANY):
            while len(stand.clients) < count:
                stand.subscriber("bare:idle")
            gc.collect()
            taken = tracemalloc.take_snapshot().filter_traces(OURS).filter_traces([WHEEL])
            traces = taken.traces
            sizes.append((sum(trace.size for trace in traces), len(traces)))
    finally:
        tracemalloc.stop()
    (size_few, pieces_few), (size_many, pieces_many) = sizes
    more = IDLE_MANY - IDLE_FEW
    return {
        "bytes": round((size_many - size_few) / more, 1),
        "blocks": round((pieces_many - pieces_few) / more, 2),
    }


def _dispatch(stand: Stand, topic: str, data: bytes = DATA) -> None:
    publication = Publication(topic, data, 1_790_000_000_000)
    stand.do(partial(stand.worker.hub.dispatch, publication))


def _fan_out(stand: Stand) -> Figures:
    def publish() -> None:
        _dispatch(stand, "bare:fan")
        for client in stand.clients:
            client.until(END)

    counted: list[Work] = []
    for count in (FEW, MANY):
        while len(stand.clients) < count:
            stand.subscriber("bare:fan")
        counted.append(stand.each(publish))
    few, many = counted
    each = (many - few).times(1 / (MANY - FEW))
    once = few - each.times(FEW)
    return {"delivery": shown(each), "publication, dispatched and flushed": shown(once)}


def _behind(stand: Stand) -> dict[str, float]:
    counted: list[Work] = []
    for count in (SLOW_FEW, SLOW_MANY):
        while len(stand.clients) < count:
            stand.subscriber("bare:slow", receive_buffer=4096)
        while len(stand.worker.counters.windows) < count:
            _dispatch(stand, "bare:slow", BIG)
        counted.append(stand.each(partial(_dispatch, stand, "bare:slow")))
    assert len(stand.worker.counters.windows) == SLOW_MANY
    few, many = counted
    return of_one(few, many, SLOW_MANY - SLOW_FEW)


def _api(stand: Stand) -> Figures:
    with closing(Client(stand.worker.api_port)) as client:

        def ask(request: bytes, end: bytes) -> None:
            client.send(request)
            client.until(end)

        def batch(count: int) -> Work:
            messages = [{"topic": f"rooms:{place}", "data": json.loads(DATA)} for place in range(7)]
            content = {"messages": [messages[place % 7] for place in range(count)]}
            return stand.each(partial(ask, _post("/v1/publish/batch", content), b"]}"))

        message = {"topic": "rooms:1", "data": json.loads(DATA)}
        one = stand.each(partial(ask, _post("/v1/publish", message), b"}"))
        return {
            "publish, a request": shown(one),
            "publish, one of a batch": of_one(
                batch(ROUND_FEW), batch(ROUND_MANY), ROUND_MANY - ROUND_FEW
            ),
        }


def _post(path: str, content: object) -> bytes:
    body = json.dumps(content, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# Over Redis


def over_redis(stand: Stand, port: int) -> Figures:
    """Everything that a Redis server has a part in. port: of the server, which is empty."""
    return _intake(stand, port) | _outlet(stand)


def _intake(stand: Stand, port: int) -> Figures:
    """What arrives in a topic with history, as another worker publishes it."""
    figures: Figures = {}
    reader = stand.connect()
    reader.send(handshake("/ws"))
    reader.until(b'"welcome"')
    reader.send(command("subscribe", id=1, topic="rooms:mark"))
    mark = _Stream("rooms:mark", reader)
    reader.send(command("subscribe", id=1, topic="rooms:in"))
    stream = _Stream("rooms:in", reader)
    with closing(Client(port)) as redis:

        def arrive(streams: Sequence[_Stream], ends: int) -> None:
            # At once, so that one read brings them all.
            _at_once(redis, [(each.channel, each.next()) for each in streams])
            for _ in range(ends):
                reader.until(END)

        def count(ends: Callable[[int], int]) -> dict[str, float]:
            few, many = (
                stand.each(partial(arrive, [stream] * number + [mark], ends(number)))
                for number in (ROUND_FEW, ROUND_MANY)
            )
            return of_one(few, many, ROUND_MANY - ROUND_FEW)

        figures["intake, with a subscriber"] = count(lambda number: number + 1)
        reader.send(command("unsubscribe", id=1, topic="rooms:in"))
        reader.until(b'"unsubscribed"')
        stand.rest()
        # It is listened to for a while yet.
        figures["intake, without"] = count(lambda number: 1)
    return figures


class _Stream:
    """The publications of a topic, from where a client has been told that it is subscribed."""

    def __init__(self, topic: str, reader: Client) -> None:
        reader.until(b'"subscribed"')
        answer = json.loads(b'{"op":"subscribed"' + reader.until(b"}"))
        self.channel = f"clarion:t:{topic}".encode()
        self._epoch = answer["epoch"].encode()
        self._offset: int = answer["offset"]

    def next(self) -> bytes:
        """The payload of the next one; see publish.lua."""
        self._offset += 1
        return b"#%d 1790000000000 %b %b" % (self._offset, self._epoch, DATA)


def _at_once(redis: Client, publications: Sequence[tuple[bytes, bytes]]) -> None:
    packed = [b"*1\r\n$5\r\nMULTI\r\n"]
    for channel, payload in publications:
        words = (b"PUBLISH", channel, payload)
        packed.append(b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
    redis.send(b"".join(packed) + b"*1\r\n$4\r\nEXEC\r\n")
    redis.until(b"*%d\r\n" % len(publications) + b":1\r\n" * len(publications))


def _outlet(stand: Stand) -> Figures:
    """What is published: packing it, and the answers."""

    def publish(drafts: Sequence[Draft]) -> None:
        broker = stand.worker.broker
        answer = asyncio.run_coroutine_threadsafe(broker.publish(drafts), stand.loop)
        answer.result(DEADLINE)

    figures: Figures = {}
    for name, topic in (("with history", "rooms:out"), ("without history", "bare:out")):
        few, many = (
            stand.each(partial(publish, [Draft(topic, DATA)] * number))
            for number in (ROUND_FEW, ROUND_MANY)
        )
        figures[f"publish to Redis, {name}"] = of_one(few, many, ROUND_MANY - ROUND_FEW)
    return figures
