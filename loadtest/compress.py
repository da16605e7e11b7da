"""What `compress` saves and costs: the same real documents to the same clients, with and without.

Every client has agreed to compression, and is subscribed to two topics: one of a namespace with the
step, and one without. Documents are published one at a time to each in turn; a publication is over
when every client has all its bytes. What a sample decompresses must be what was published.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec

from clarion_server.demo import flights
from loadtest import machine, wire
from loadtest.carriers import Clarion
from loadtest.crowd import Crowd
from loadtest.publisher import Publisher
from loadtest.report import Result, Row, progress

PLAIN, COMPRESSED = "plain:board", "compressed:board"

CONFIG = """\
development = true
[namespaces.plain]
subscribe = "everyone"
[namespaces.compressed]
subscribe = "everyone"
pipeline = [{{ step = "compress", level = {level} }}]
"""

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
"""As browsers have it."""

DOCUMENTS = 40
"""Different ones of each size, published in turn."""

SIZES = {"an event": 1, "10 events": 10, "100 events": 100}

DELIVERIES = 20_000
"""About as many in each cell of each round; at least `LEAST` publications."""

LEAST = 12

STALL_S = 10.0
READ_BYTES = 1 << 18
END = b"\x00\x00\xff\xff"  # RFC 7692, section 7.2.2


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subscribers", type=int, nargs="*", default=[1, 100, 10_000])
    parser.add_argument("--level", type=int, default=6)
    parser.add_argument(
        "--publications", type=int, default=1000, help="at most, for each cell of each round"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")


class Clients:
    """The crowd, and one of it that is read in full."""

    def __init__(self, clarion: Clarion, count: int) -> None:
        self.crowd = Crowd()
        self.count = count
        arrivals = self.crowd.arrive(
            count,
            clarion.port,
            lambda _place: PLAIN,
            window=512,
            headers=(OFFER,),
            progress=lambda done: progress(f"{done:,} of {count:,} in place"),
        )
        if arrivals.failures:
            raise SystemExit(f"clients failed: {dict(arrivals.failures)}")
        self._buffer = bytearray(READ_BYTES)
        self.total = 0
        self._sample = next(iter(self.crowd.sockets))
        self.heard = bytearray()
        """What the sample has received and nobody has looked at yet."""
        self.publisher = Publisher(self.crowd.epoll, clarion.api_port, 1, "/v1/publish")
        for client in self.crowd.sockets.values():
            client.send(wire.command("subscribe", topic=COMPRESSED))
        self.gather(1)
        self.heard.clear()
        self.total = 0

    def gather(self, frames: int) -> list[tuple[bool, bytes]]:
        """Reads until each has `frames`; the sample's: whether compressed, and the payload."""
        quiet = time.monotonic()
        while True:
            found = list(wire.frames(self.heard))
            if len(found) >= frames and self.total >= found[-1][2] * self.count:
                break
            if not self._turn() and time.monotonic() - quiet > STALL_S:
                raise SystemExit(f"{self.total:,} bytes for {self.count:,} clients, and no more")
        assert self.total == len(self.heard) * self.count, "not all have received the same"
        places = [0, *(end for _, _, end in found)]
        return [
            (bool(self.heard[at] & 0x40), bytes(self.heard[start:end]))
            for at, (_, start, end) in zip(places, found, strict=False)
        ]

    def _turn(self) -> int:
        before = self.total
        for fd, _ in self.crowd.epoll.poll(0.1, 4096):
            if self.publisher.owns(fd):
                self.publisher.read(fd)
                continue
            size = self.crowd.sockets[fd].recv_into(self._buffer)
            if not size:
                raise SystemExit("the server closed a connection")
            self.total += size
            if fd == self._sample:
                self.heard += self._buffer[:size]
        return self.total - before

    def publish(self, topic: str, document: bytes) -> tuple[float, int]:
        """Publishes; returns the seconds until all have it, and the bytes that each received."""
        self.heard.clear()
        self.total = 0
        began = time.perf_counter()
        self.publisher.post(b'{"topic":"%b","data":%b}' % (topic.encode(), document))
        ((compressed, payload),) = self.gather(1)
        spent = time.perf_counter() - began
        size = len(self.heard)
        while not self.publisher.idle:
            self._turn()
        if compressed:
            payload = zlib.decompress(payload + END + b"\x03\x00", -15)
        if json.loads(payload)["data"] != json.loads(document):
            raise SystemExit("what arrived is not what was published")
        return spent, size

    def close(self) -> None:
        self.publisher.close()
        self.crowd.close()


class Cell:
    """The rounds of one topic."""

    def __init__(self) -> None:
        self.cpu_us: list[float] = []
        self.spent_ms: list[float] = []
        self.bytes: list[int] = []


def run(args: argparse.Namespace) -> Result:
    result = Result("compress", vars(args))
    for subscribers in args.subscribers:
        # A server each: one that has had 10,000 clients is another one.
        with TemporaryDirectory() as folder:
            file = Path(folder) / "clarion.toml"
            file.write_text(CONFIG.format(level=args.level))
            command = f"{args.command} --config {file}"
            with Clarion(command, CLARION_KEEPALIVE_PING_S="3600", **args.environment) as clarion:
                clients = Clients(clarion, subscribers)
                for name, events in SIZES.items():
                    progress(f"{subscribers:,} subscribers, {name}")
                    result.rows.append(_row(clarion, clients, name, documents(events), args))
                result.notes += _outcomes(clarion, subscribers)
                clients.close()
    result.notes += [
        f"level {args.level}; real departures of {flights.EXTRACT.name}, one publication at a time",
        "CPU is the server's for a publication with its request; ratios are medians of"
        f" {args.rounds} rounds, each with and without in turn",
        "every byte of every client counted; a sample's decompressed and compared",
    ]
    return result


def documents(events: int) -> Sequence[bytes]:
    """Documents of so many events each, as they follow each other."""
    names, all_flights = flights.load()
    found = flights.events(all_flights)[: DOCUMENTS * events * 2]
    data = [flights.data(event, names) for event in found]
    step = max(1, len(data) // DOCUMENTS)
    return [
        msgspec.json.encode(data[at] if events == 1 else data[at : at + events])
        for at in range(0, step * (DOCUMENTS - 1), step)
    ]


def _row(
    clarion: Clarion,
    clients: Clients,
    name: str,
    published: Sequence[bytes],
    args: argparse.Namespace,
) -> Row:
    cells = {PLAIN: Cell(), COMPRESSED: Cell()}
    count = min(args.publications, max(LEAST, DELIVERIES // clients.count))
    for turn in range(args.rounds + 1):
        for topic, cell in cells.items():
            cpu = machine.cpu_seconds(clarion.pid)
            times = [
                clients.publish(topic, published[place % len(published)]) for place in range(count)
            ]
            if turn:  # the first is for warming up
                cell.cpu_us.append((machine.cpu_seconds(clarion.pid) - cpu) / count * 1e6)
                cell.spent_ms.append(median(spent for spent, _ in times) * 1e3)
                cell.bytes += [size for _, size in times]
    off, on = cells[PLAIN], cells[COMPRESSED]
    off_bytes, on_bytes = (sum(cell.bytes) / len(cell.bytes) for cell in (off, on))
    return {
        "": f"{name}, {clients.count:,} subscribers",
        "bytes off": int(off_bytes),
        "bytes on": int(on_bytes),
        "saved": f"{1 - on_bytes / off_bytes:.0%}",
        "CPU us off": median(off.cpu_us),
        "CPU us on": median(on.cpu_us),
        "CPU on / off": _ratio(on.cpu_us, off.cpu_us),
        "ms to the last, off": median(off.spent_ms),
        "on / off": _ratio(on.spent_ms, off.spent_ms),
    }


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return median(one / max(other, 1e-9) for one, other in zip(ones, others, strict=True))


def _outcomes(clarion: Clarion, subscribers: int) -> list[str]:
    samples = clarion.metrics("compress")
    outcomes = {
        name.partition('outcome="')[2].partition('"')[0]: int(value)
        for name, value in samples.items()
        if "outcome=" in name and value
    }
    (seconds,) = (value for name, value in samples.items() if "compression_seconds_total" in name)
    each = seconds / max(1, outcomes.get("compressed", 0)) * 1e6
    return [f"{subscribers:,} subscribers: {outcomes}, {each:.0f} us each"]
