"""A part of the clients stops reading for good while everybody is sent the same: who notices?

Each round: everybody reads, then, with new clients, a part does not. Those who read must be served
as if nothing were; those who do not must be gone in time, must not cost more than their windows,
and must get all of it once they come back.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import time
from statistics import median

from loadtest import machine, wire
from loadtest.carriers import Clarion
from loadtest.crowd import Crowd
from loadtest.publisher import Publisher
from loadtest.report import Result, percentile, progress
from loadtest.socket_memory import Reserve
from loadtest.tail import Tail, payload

TOPIC = "load"
SAMPLES = 24
"""Readers whose messages are parsed and timed, spread evenly over all."""

READ_BYTES = 1 << 18
BUFFERED_BYTES = 300 * 1024
"""What the kernel holds for one that does not read, both ends (measured: 284 KB)."""

SETTLE_S = 2.0
"""For the server to get rid of a round's clients, and to give back what they took."""

SLACK_S = 3.0
"""Beyond its deadlines, until a client that does not read must be gone: the server is busy."""

STALL_S = 20.0
"""When nothing arrives for so long, what is still missing is lost."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.1, help="of them that stop reading")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--payload", type=int, default=1024, help="bytes of JSON, at least 60")
    parser.add_argument(
        "--rate", type=float, default=200.0, help="messages a second, about half load"
    )
    parser.add_argument("--batch", type=int, default=10, help="messages published together")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--single-pages",
        action="store_true",
        help="set net.core.high_order_alloc_disable meanwhile, as clarion doctor asks for; as root",
    )


def run(args: argparse.Namespace) -> Result:
    result = Result("slow", vars(args))
    with (
        machine.single_pages(args.single_pages),
        tempfile.NamedTemporaryFile("w", suffix=".toml") as config,
    ):
        # All of a round's messages are kept, so that whoever comes back finds them.
        history = f"[namespaces.default]\nhistory_size = {args.messages}\n"
        config.write(f"development = true\n[keepalive]\nping_s = 3600\n{history}")
        config.flush()
        environment = {"CLARION_CONFIG": config.name, **args.environment}
        rows = _rounds(args, Clarion(args.command, **environment), result)
    _show(args, rows, result)
    return result


def _rounds(args: argparse.Namespace, carrier: Clarion, result: Result) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    with carrier as clarion:
        _round(args, clarion, result, "warm-up", slow=0)
        for turn in range(args.rounds):
            name = f"round {turn + 1} of {args.rounds}"
            without = _round(args, clarion, result, f"{name}, all read", slow=0)
            slow = int(args.clients * args.share)
            rows.append(
                {f"{key}, all read": value for key, value in without.items()}
                | _round(args, clarion, result, f"{name}, {slow} do not", slow=slow)
            )
    return rows


def _show(args: argparse.Namespace, rows: list[dict[str, float]], result: Result) -> None:
    def middle(key: str) -> float:
        return median(row[key] for row in rows)

    slow = int(args.clients * args.share)
    ratio = median(row["p99"] / row["p99, all read"] for row in rows)
    result.rows = [
        {
            "": f"{args.clients:,} clients, {slow:,} stop reading",
            "p50 ms": middle("p50"),
            "p99 ms": middle("p99"),
            "all read: p50": middle("p50, all read"),
            "p99": middle("p99, all read"),
            "p99 ratio": ratio,
            "gone after s": max(row["gone"] for row in rows),
            "memory MiB": middle("memory"),
            "all read: memory": middle("memory, all read"),
            "left when gone": middle("left"),
            "buffers MiB": middle("kernel"),
            "machine MiB": middle("machine"),
        }
    ]
    result.notes = [
        "p50, p99: from publishing a batch until one who reads has it; memory: what the server's"
        " process grew by at most (PSS), while all read and while some do not",
        f"buffers: what those of all sockets grew by at most, both ends; the windows of all"
        f" {slow:,} may hold {slow:,} MiB; machine: the memory that is gone when all is published",
        f"'gone after': from the last publication until the last of them was closed with 4001;"
        f" all of them came back, {args.messages:,} messages were complete",
    ]
    if ratio > 1.5:
        result.notes.append(f"p99 is {ratio:.2f} times that without slow clients: more than 1.5")


class Round:
    """One crowd, of which `slow` clients are never read, until everything was published."""

    def __init__(self, args: argparse.Namespace, clarion: Clarion, name: str, slow: int) -> None:
        self.args, self.clarion, self.name = args, clarion, name
        self.crowd = Crowd()
        arrivals = self.crowd.arrive(args.clients, clarion.port, lambda _: TOPIC, window=512)
        if arrivals.failures:
            raise SystemExit(f"clients failed: {dict(arrivals.failures)}")
        fds = list(self.crowd.sockets)
        self.slow = set(fds[:: len(fds) // slow][:slow]) if slow else set()
        self.readers = [fd for fd in fds if fd not in self.slow]
        self.got = dict.fromkeys(self.readers, 0)
        step = max(1, len(self.readers) // SAMPLES)
        self.tails = {fd: Tail() for fd in self.readers[::step]}
        for fd in self.slow:
            self.crowd.epoll.unregister(fd)
        self.publisher = Publisher(self.crowd.epoll, clarion.api_port, 1, "/v1/publish/batch")
        self._buffer = bytearray(READ_BYTES)
        self.memory = self.kernel = self.machine = 0

    def measure(self) -> None:
        self.memory = max(self.memory, machine.pss_bytes(self.clarion.pid))
        self.kernel = max(self.kernel, machine.socket_bytes())

    def publish(self) -> None:
        """Publishes everything at its pace, and reads; returns when every reader has it."""
        args, published = self.args, 0
        free = machine.free_bytes()
        # In every round, whether there are slow ones or not, so that the two can be compared.
        pairs = int(args.clients * args.share)
        reserve = Reserve(pairs, BUFFERED_BYTES)
        a_batch = pairs * args.batch * args.payload / BUFFERED_BYTES
        released = 0
        began = time.perf_counter()
        looked = moved = 0.0
        last = -1
        while True:
            now = time.perf_counter() - began
            if published < args.messages and now >= published / args.rate and self.publisher.idle:
                count = min(args.batch, args.messages - published)
                self._post(published + 1, count)
                published += count
                due = int((published / args.batch + 2) * a_batch)  # two batches ahead
                reserve.release(due - released)
                released = due
            for fd, _ in self.crowd.epoll.poll(0.002, 1024):
                self._read(fd)
            if now - looked > 0.5:
                looked = now
                self.measure()
                progress(f"{self.name}: {published:,} of {args.messages:,} published")
                total = sum(self.got.values())
                if total != last:
                    last, moved = total, now
                elif now - moved > STALL_S:
                    raise SystemExit(f"{self.name}: nothing arrives any more")
            if published == args.messages and self._complete():
                reserve.close()
                self.machine = free - machine.free_bytes()
                return

    def _post(self, first: int, count: int) -> None:
        now = time.perf_counter_ns()
        data = (payload(number, self.args.payload, now) for number in range(first, first + count))
        messages = ",".join(f'{{"topic":"{TOPIC}","data":{one}}}' for one in data)
        self.publisher.post(b'{"messages":[%s]}' % messages.encode())

    def _read(self, fd: int) -> None:
        if self.publisher.owns(fd):
            self.publisher.read(fd)
            return
        size = self.crowd.sockets[fd].recv_into(self._buffer)
        if not size:
            raise SystemExit(f"{self.name}: one who reads was closed")
        self.got[fd] += size
        if fd in self.tails:
            self.tails[fd].take(memoryview(self._buffer)[:size], time.perf_counter_ns())

    def _complete(self) -> bool:
        size = 0
        for tail in self.tails.values():
            if len(tail.numbers) < self.args.messages:
                return False
            size = tail.size
        return all(got >= size for got in self.got.values())

    def faults(self) -> list[str]:
        faults = [
            fault for tail in self.tails.values() for fault in tail.faults(1, self.args.messages)
        ]
        size = next(iter(self.tails.values())).size
        others = sum(got != size for got in self.got.values())
        if others:
            faults.append(f"{others} who read have not received {size} bytes")
        return [f"{self.name}: {fault}" for fault in faults + self.publisher.errors[:3]]

    def latencies(self) -> list[float]:
        return [ns / 1e6 for tail in self.tails.values() for ns in tail.latencies_ns]


def _round(
    args: argparse.Namespace, clarion: Clarion, result: Result, name: str, *, slow: int
) -> dict[str, float]:
    """The figures of one round; MiB, ms and seconds."""
    closed = _closed(clarion)
    kernel = machine.socket_bytes()
    one = Round(args, clarion, name, slow)
    arrived = machine.pss_bytes(clarion.pid)
    one.publish()
    ended = time.monotonic()
    while (gone := _closed(clarion) - closed) < slow:
        one.measure()
        if time.monotonic() - ended > _deadline(args) + SLACK_S:
            result.faults.append(f"{name}: {slow - gone:g} who do not read are still there")
            break
        time.sleep(0.2)
    gone_after = time.monotonic() - ended
    result.faults += one.faults()
    time.sleep(SETTLE_S)
    left = machine.pss_bytes(clarion.pid)
    for fd in one.slow:
        fault = _comes_back(one.crowd.sockets[fd], clarion, args.messages)
        if fault:
            result.faults.append(f"{name}: {fault}")
            break
    latencies = one.latencies()
    one.publisher.close()
    one.crowd.close()
    time.sleep(SETTLE_S)
    mib = 2**20
    return {
        "p50": percentile(latencies, 0.50),
        "p99": percentile(latencies, 0.99),
        "gone": gone_after,
        "memory": (one.memory - arrived) / mib,
        "left": (left - arrived) / mib,
        "kernel": (one.kernel - kernel) / mib,
        "machine": one.machine / mib,
    }


def _closed(clarion: Clarion) -> float:
    """Clients that the server has closed with 4001 and that are gone."""
    samples = clarion.metrics("clarion_closes_total")
    return sum(value for name, value in samples.items() if 'code="4001"' in name)


def _deadline(args: argparse.Namespace) -> float:
    """The longest that a client that does not read may stay, seconds."""
    environment = args.environment
    window = float(environment.get("CLARION_WINDOW_SECONDS", 10))
    return window + float(environment.get("CLARION_KEEPALIVE_CLOSE_S", 5))


def _comes_back(former: socket.socket, clarion: Clarion, messages: int) -> str:
    """Lets a client that was closed read what it has, and resume; returns what is wrong."""
    seen = Tail()
    former.settimeout(5)
    try:
        while data := former.recv(READ_BYTES):
            seen.take(data, 0)
    except ConnectionError:
        pass  # it was reset, as it never took the close frame
    except TimeoutError:
        return "one who does not read is still connected"
    at = seen.offsets[-1] if seen.offsets else 0
    if seen.offsets and seen.offsets != list(range(seen.offsets[0], at + 1)):
        return "what one got before it was closed has a gap"
    first = seen.numbers[-1] + 1 if seen.numbers else 1
    status, text = clarion.get(f"/v1/topics/{TOPIC}/history?limit=1&reverse=true")
    if status != 200:
        return f"the history is not there: {status} {text[:200]}"
    newest = json.loads(text)
    since = {"epoch": newest["epoch"], "offset": at or newest["offset"] - messages}
    with socket.create_connection(("127.0.0.1", clarion.port), timeout=10) as again:
        again.sendall(wire.handshake(clarion.port))
        heard = bytearray()
        while wire.WELCOME not in heard:
            heard += again.recv(READ_BYTES)
        again.sendall(wire.command("subscribe", id=1, topic=TOPIC, since=since))
        while wire.SUBSCRIBED not in heard:
            heard += again.recv(READ_BYTES)
        if b'"recovered":true' not in heard:
            return f"one could not resume from {since}"
        rest = Tail()
        start = heard.index(b"\r\n\r\n") + 4
        rest.take(bytes(heard[start:]), 0)
        while not rest.numbers or rest.numbers[-1] < messages:
            rest.take(again.recv(READ_BYTES), 0)
    rest.strays.clear()  # welcome and subscribed
    return "; ".join(rest.faults(first, messages))
