"""Clients that read as they like, beside a model of what they may conclude from what they get.

Real sessions, windows and transports, and real sockets with small buffers; the clients' side and
the event loop are the test's.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clarion_server.auth import ANONYMOUS
from clarion_server.options import Keepalive, Limits, Namespace, WindowOptions
from clarion_server.peer import Peer
from clarion_server.protocol import Since
from clarion_server.sse import EventStream
from clarion_server.websocket import WebSocket
from clarion_server.wheel import ticks
from support.cables import Cables
from support.edges import World, but
from support.examples import examples
from support.wire import CLOSE, PING, TEXT, command

WINDOW = WindowOptions(bytes=3000, messages=30, seconds=1)
CLOSE_S = 0.5
STUCK_TICKS = ticks(WINDOW.seconds) + 4
"""Time in which whoever reads nothing is closed: the looks are 0.2 s apart."""


def namespace(**options: Any) -> Namespace:
    return Namespace(subscribe="everyone", publish="everyone", **options)


NAMESPACES = {
    "close": namespace(history_size=40),
    "bare": namespace(),
    "old": namespace(history_size=20, slow="drop_oldest", slow_messages=8),
    "fast": namespace(slow="drop_oldest", slow_bytes=900, slow_s=0.6),
    "sync": namespace(history_size=5, slow="resync", slow_messages=12),
    "last": namespace(history_size=20, slow="latest"),
    "now": namespace(slow="latest"),
}
TOPICS = tuple(f"{name}:{topic}" for name in NAMESPACES for topic in "ab")
DROPPING = frozenset({"old", "fast", "sync", "last", "now"})


def options(topic: str) -> Namespace:
    return NAMESPACES[topic.partition(":")[0]]


class Reader:
    """A client: what it has read, and what follows from it.

    Each of its complaints is a broken promise.
    """

    def __init__(self, machine: PeerMachine, kind: str, buffer: int) -> None:
        self.machine = machine
        self.kind = kind
        transport, self.socket = machine.cables.connect(buffer)
        self.transport = transport
        edge = machine.world.edge
        self.peer: Peer
        if kind == "websocket":
            self.peer = WebSocket(edge, transport, transport.fileno())
        else:
            self.peer = EventStream(edge, transport, transport.fileno(), ANONYMOUS)
        transport.set_protocol(self.peer)
        self.buffer = bytearray()
        self.positions: dict[str, tuple[str, int]] = {}
        self.numbers: dict[str, int] = {}
        """The newest that was read on this connection."""
        self.keyed: dict[tuple[str, str], int] = {}
        """Of each topic and key."""
        self.subscribed: set[str] = set()
        self.answers: list[object] = []
        """The ids of commands that are not answered yet."""
        self.code = 0
        self.over = False
        self.stood_still = machine.tick
        self.taken = 0

    # The conversation

    def asks(self, op: str, **fields: object) -> None:
        if self.over or self.code or self.kind != "websocket" or len(self.answers) > 20:
            return
        id = next(self.machine.ids)
        with suppress(OSError):
            self.socket.send(command(op, id=id, **fields))
            self.answers.append(id)

    def subscribes(self, topic: str) -> None:
        """Resumes where it knows where it stands."""
        if topic not in self.subscribed:
            self.subscribed.add(topic)
            since = self.positions.get(topic)
            fields: dict[str, object] = {"topic": topic}
            if since is not None:
                fields["since"] = {"epoch": since[0], "offset": since[1]}
            self.asks("subscribe", **fields)

    def reads(self, size: int) -> int:
        """Takes at most so many bytes; how many there were."""
        if self.over:
            return 0
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self.over = True
            return 0
        self.taken += len(data)
        self.buffer += data
        for message, id in self.messages():
            self.hears(message)
            if id is not None:
                self.stands_at(id)
        return len(data)

    def messages(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """What has arrived whole, and the ids of events."""
        if self.kind != "websocket":
            while (end := self.buffer.find(b"\n\n")) >= 0:
                lines = [each for each in self.buffer[:end].decode().split("\n") if each]
                del self.buffer[: end + 2]
                fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
                if "data" in fields:
                    yield json.loads(fields["data"]), fields.get("id")
            return
        while len(self.buffer) >= 2:
            opcode, size, start = self.buffer[0] & 15, self.buffer[1], 2
            if size == 126:
                start, size = 4, int.from_bytes(self.buffer[2:4], "big")
            if len(self.buffer) < start + size:
                return
            payload = bytes(self.buffer[start : start + size])
            del self.buffer[: start + size]
            if opcode == TEXT:
                yield json.loads(payload), None
            elif opcode == CLOSE:
                assert self.code == int.from_bytes(payload[:2], "big")
            else:
                assert opcode == PING

    def hears(self, message: dict[str, Any]) -> None:
        assert not self.code, f"{message} after goodbye"
        op, topic = message["op"], message.get("topic", "")
        if "id" in message:
            assert message["id"] == self.answers.pop(0), "an answer is missing"
        match op:
            case "welcome" | "pong":
                pass
            case "goodbye":
                self.code = message["code"]
            case "subscribed":
                if message.get("recovered") is not True and "epoch" in message:
                    self.positions[topic] = message["epoch"], message["offset"]
            case "lost":
                assert options(topic).slow in ("drop_oldest", "resync", "latest")
                epoch, offset = self.positions[topic]
                assert message["epoch"] == epoch
                assert message["offset"] > offset
                self.positions[topic] = epoch, message["offset"]
            case "message":
                number, key, _ = message["data"]
                before = self.numbers.get(topic, 0)
                if (topic, key) in self.keyed:
                    assert number > self.keyed[topic, key], "doubled, or overtaken"
                self.keyed[topic, key] = number
                # Only where there are no offsets may the news of one thing overtake another's.
                assert number > before or options(topic) is NAMESPACES["now"]
                self.numbers[topic] = max(before, number)
                if "offset" in message:
                    epoch, offset = self.positions[topic]
                    assert message["offset"] == offset + 1, "something is missing, and not told"
                    assert self.machine.published[topic][offset] == number
                    self.positions[topic] = epoch, offset + 1
                elif options(topic).slow == "close" and before:
                    assert self.machine.after(topic, before) == number, "something is missing"
            case other:
                raise AssertionError(other)

    def stands_at(self, id: str) -> None:
        """An event id never says of a topic that more was read than was."""
        for part in id.split(";"):
            topic, epoch, offset = part.split("|")
            assert (epoch, int(offset)) <= self.positions[topic]
            assert epoch == self.positions[topic][0]

    @property
    def behind(self) -> bool:
        return not self.gone and self.transport.get_write_buffer_size() > 0

    @property
    def gone(self) -> bool:
        return self.transport.fileno() not in self.machine.cables.transports


class PeerMachine(RuleBasedStateMachine):
    """One client reads everything at once; the others read now and then, or never again."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        config = but(
            window=WINDOW,
            namespaces=NAMESPACES,
            keepalive=Keepalive(ping_s=3600, close_s=CLOSE_S),
            limits=Limits(errors=10_000),
        )
        self.world = World(config)
        self.loop.run_until_complete(self.world.__aenter__())
        self.cables = Cables()
        self.ids = iter(range(1, 1_000_000))
        self.count = 0
        self.tick = 0
        self.published: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        self.newest: dict[tuple[str, str], int] = {}
        """Of each topic and key."""
        self.quick = self.connect("websocket", 100_000)
        self.slow = [
            self.connect("websocket", 4600),
            self.connect("websocket", 4600),
            self.connect("stream", 4600, "last:a"),
            self.connect("stream", 4600, "close:a", "now:a", "old:b", "last:a"),
        ]
        for topic in TOPICS:
            self.quick.subscribes(topic)
            self.slow[0].subscribes(topic)
        self.settle()

    def connect(self, kind: str, buffer: int, *topics: str) -> Reader:
        reader = Reader(self, kind, buffer)

        def begin() -> None:
            if isinstance(reader.peer, EventStream):
                wishes: dict[str, Since | None] = dict.fromkeys(topics)
                reader.peer.begin(b"", wishes, 0)
                reader.subscribed.update(topics)
            elif isinstance(reader.peer, WebSocket):
                reader.peer.begin(b"", None, b"")

        self.run(begin)
        return reader

    def run(self, work: Any) -> None:
        async def once() -> None:
            work()
            await asyncio.sleep(0)

        self.loop.run_until_complete(once())

    def after(self, topic: str, number: int) -> int:
        """The number of the publication after that one; 0 if there is none yet."""
        later = self.published[topic][self.published[topic].index(number) + 1 :]
        return later[0] if later else 0

    def settle(self) -> None:
        """What is ready is done, and the quick client reads."""
        for _ in range(4):
            self.run(self.cables.turn)
            while self.quick.reads(100_000):
                pass

    # What happens

    @rule(
        topic=st.sampled_from(TOPICS),
        sizes=st.lists(
            st.tuples(st.sampled_from([1, 1, 100, 700]), st.sampled_from(["", "", "x", "y"])),
            min_size=1,
            max_size=8,
        ),
        at_once=st.booleans(),
    )
    def publish(self, topic: str, sizes: list[tuple[int, str]], at_once: bool) -> None:
        batch: list[tuple[str, str]] = []
        for size, key in sizes:
            self.count += 1
            self.published[topic].append(self.count)
            self.newest[topic, key] = self.count
            batch.append((json.dumps([self.count, key, "x" * size]), key))
        for part in [batch] if at_once else [[pair] for pair in batch]:
            texts, keys = [text for text, _ in part], [key for _, key in part]
            self.loop.run_until_complete(self.world.publish(topic, *texts, keys=keys))
            self.settle()

    @rule(who=st.integers(0, 3), size=st.sampled_from([1, 100, 2000, 100_000]))
    def read(self, who: int, size: int) -> None:
        self.slow[who].reads(size)
        self.settle()

    @rule(who=st.integers(0, 1), topic=st.sampled_from(TOPICS))
    def subscribe(self, who: int, topic: str) -> None:
        client = self.slow[who]
        if topic not in client.subscribed:
            client.subscribes(topic)
            self.settle()

    @rule(who=st.integers(0, 1))
    def ping(self, who: int) -> None:
        self.slow[who].asks("ping")
        self.settle()

    @rule(count=st.sampled_from([1, 3, 8]))
    def pass_time(self, count: int) -> None:
        for _ in range(count):
            self.tick += 1
            self.run(lambda: self.world.edge.wheel.advance(self.tick))
            self.settle()
            for client in self.slow:
                if client.taken or not client.behind:
                    client.stood_still, client.taken = self.tick, 0
                still = self.tick - client.stood_still
                assert still <= STUCK_TICKS + ticks(CLOSE_S) + 1, "stuck, and still there"

    @rule(who=st.integers(0, 3))
    def come_back(self, who: int) -> None:
        """Whoever was closed reads what there is, connects again and resumes."""
        former = self.slow[who]
        if not former.gone:
            return
        while former.reads(100_000):
            pass
        assert former.code in (0, 4001)
        topics = sorted(former.subscribed)
        if former.kind == "websocket":
            client = self.slow[who] = self.connect("websocket", 4600)
            client.positions = former.positions
            for topic in topics:
                client.subscribes(topic)
        else:
            self.slow[who] = self.connect("stream", 4600, *topics)
        self.settle()

    # What must hold

    @invariant()
    def who_keeps_up_has_everything(self) -> None:
        quick = self.quick
        assert not quick.over
        assert quick.peer.bulk
        for topic, numbers in self.published.items():
            assert quick.numbers.get(topic, 0) == (numbers[-1] if numbers else 0)

    @invariant()
    def bounds_are_kept(self) -> None:
        for window in self.world.counters.windows:
            assert window.messages <= WINDOW.messages
            assert window.bytes <= WINDOW.bytes or window.messages == 1

    @invariant()
    def only_what_may_be_dropped_was(self) -> None:
        for (policy, name), count in self.world.counters.dropped.items():
            assert not count or policy == "close" or policy == NAMESPACES[name].slow

    def teardown(self) -> None:
        try:
            for _ in range(400):
                read = [client.reads(100_000) for client in self.slow]
                if not any(read):
                    break
                self.settle()
            for client in self.slow:
                if client.code or client.over or client.gone:
                    continue
                assert not client.answers
                assert client.kind != "websocket" or client.peer.bulk
                for topic in client.subscribed:
                    self.has_the_newest(client, topic)
            assert not self.world.counters.windows
        finally:
            self.cables.close()
            self.loop.run_until_complete(self.world.__aexit__(None, None, None))
            self.loop.close()
        assert not self.world.counters.windows
        assert self.world.hub.subscriptions == 0
        assert sum(Counter(self.world.counters.connections).values()) == 0

    def has_the_newest(self, client: Reader, topic: str) -> None:
        numbers = self.published[topic]
        if options(topic).history_size:
            assert client.positions[topic][1] == len(numbers), topic
        elif options(topic).slow != "drop_oldest" and client.numbers.get(topic):
            assert client.numbers[topic] == numbers[-1], topic
        if options(topic).slow == "latest":
            for (name, key), number in client.keyed.items():
                assert name != topic or number == self.newest[topic, key], (topic, key)


PeerMachine.TestCase.settings = settings(
    max_examples=examples(40),
    stateful_step_count=30,
)
test_whoever_reads_as_they_like_is_told_what_is_missing = PeerMachine.TestCase
