"""A share of the crowd: clients on raw sockets under one epoll, in a process of their own.

Every publication that arrives is looked at: which topic, which number, how late. A number that is
not the last one plus one is a loss, a duplicate or out of order. Where a plan has a sample, only
that is looked at; of the other clients bytes are counted, which must be as many.

Whoever reads fast enough must not pay for the generator: how long what was read may have waited
here is measured beside, and is part of every result.
"""

from __future__ import annotations

import errno
import heapq
import math
import random
import select
import socket
import time
from collections import Counter
from multiprocessing.connection import Connection

from loadtest.play.histogram import FINE_BITS, LONGEST, bucket
from loadtest.play.ledger import Ledger
from loadtest.play.plan import Plan
from loadtest.play.stamp import FIELDS, clock
from loadtest.play.talk import Aside, Client, Refused, Talk
from loadtest.play.tally import REPORT_S, Report

PER_ADDRESS = 10_000
"""Clients that share a source address 127.x.y.z: the kernel has about 28,000 ports for each."""

WINDOW = 256
"""Clients of a process that are on their way into place: the listen backlog is 4,096 at most."""

ARRIVAL_S = 60.0
"""Who is not in place after this long has failed."""

TRIES = 20
"""Attempts in a row until a client gives up, which is a fault."""

READ_BYTES = 1 << 18
LOW_WATER = 1 << 14
"""Those that are not in the sample are read when so much has gathered: reading each small write
takes as long as writing it, and the generator would be the limit."""

RETRY_S = 0.5
"""The first pause after a connection that failed; it doubles up to 4 s, with full jitter."""

JOIN = 1 << 16
SHORT_NS = 20_000
"""A wait for the kernel that was shorter was none: there was something to read already."""


class Listeners:
    """See the module's text. One share; every call belongs to its process."""

    def __init__(
        self, plan: Plan, share: int, places: range, talks: dict[int, Talk], port: int, net: int
    ) -> None:
        self.plan, self.share, self.port, self.net = plan, share, port, net
        self.epoll = select.epoll()
        self.clients = [
            Client(place, talks[place], plan.topics_of(place), place % plan.step == 0)
            for place in places
        ]
        self.by_fd: dict[int, Client] = {}
        self.buffer = bytearray(READ_BYTES + JOIN)
        self.view = memoryview(self.buffer)
        self.report = Report(share)
        self.began = self.cpu = 0.0
        self.counts = [0] * (bucket(LONGEST) + 1)
        self.apart = [0] * len(self.counts)
        """What was late because its client did not read: of no interest."""
        self.waited = [0] * len(self.counts)
        self.ledger = Ledger()
        self.waiting: list[Client] = []
        """Those who want to connect now, the last one first."""
        self.later: list[tuple[float, int, Client]] = []
        """Those who want to connect at a time."""
        self.arriving: dict[int, Client] = {}
        self.begun = 0
        self.churn = 0.0
        self.churned = 0.0
        self.over = False
        self.polled = 0
        self.since = 0
        self.reset()

    # What the process is told

    def arrive(self, share: float) -> None:
        """Lets clients connect until this share of them has begun."""
        upto = min(len(self.clients), math.ceil(len(self.clients) * share))
        some = self.clients[self.begun : upto]
        self.begun = upto
        if self.plan.arrivals:
            pace = self.plan.arrivals * len(self.clients) / self.plan.clients
            now = time.monotonic()
            for number, client in enumerate(some):
                heapq.heappush(self.later, (now + number / pace, client.place, client))
        else:
            self.waiting += some[::-1]

    def event(self, name: str, share: float) -> None:
        """Something happens to a share of the clients, evenly spread."""
        some = self._some(share)
        if name == "reconnect":
            for client in some:
                self._close(client)
            self.waiting += some[::-1]
        elif name == "stop reading":
            for client in some:
                if client.socket and client.live:
                    client.read, client.apart = False, True
                    self.epoll.unregister(client.socket)
        elif name == "read again":
            for client in self.clients:
                if client.socket and not client.read:
                    self.epoll.register(client.socket, select.EPOLLIN)
                client.read = True

    def _some(self, share: float) -> list[Client]:
        count = round(len(self.clients) * share)
        return [self.clients[at * len(self.clients) // count] for at in range(count)]

    def drain(self) -> None:
        """From now on everything is read as it comes."""
        for client in self.by_fd.values():
            if not client.sampled and client.socket:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def missing(self, last: list[int]) -> int:
        """How many publications clients have not got that are subscribed; `last`: of each topic."""
        least = 0
        sizes = Counter(client.size for client in self.clients if client.sampled and client.live)
        for client in self.clients:
            if client.sampled:
                least += sum(max(0, last[topic] - seen) for topic, seen in client.seen.items())
            elif client.live and client.size not in sizes:
                least += 1
            least += not client.live
        return least

    def close(self) -> None:
        for client in self.clients:
            self._close(client)
        self.epoll.close()

    # The loop

    def turn(self, timeout: float) -> set[int]:
        """Waits for at most so long and reads; returns the descriptors that are not ours."""
        if self.waiting and len(self.arriving) < WINDOW:
            timeout = 0.0
        elif self.later:
            timeout = min(timeout, max(0.0, self.later[0][0] - time.monotonic()))
        if self.churn:
            timeout = min(timeout, 0.02)
        before = clock()
        events = self.epoll.poll(timeout, 1024)
        now = clock()
        # What came at once may have been there since the last look; else it came just now.
        self.since = self.polled if now - before < SHORT_NS else now
        self.polled = now
        strangers: set[int] = set()
        for fd, _ in events:
            client = self.by_fd.get(fd)
            if client is None:
                strangers.add(fd)
                continue
            try:
                self._ready(client)
            except BlockingIOError:
                pass
            except Refused as refusal:
                self._failed(client, str(refusal))
            except OSError as error:
                self._ended(client, errno.errorcode[error.errno or 0])
        self._begin_some()
        if self.churn:
            self._swap_some()
        return strangers

    def _begin_some(self) -> None:
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            self.waiting.append(heapq.heappop(self.later)[2])
        room = min(WINDOW - len(self.arriving), 64, len(self.waiting))
        for _ in range(room):
            self._begin(self.waiting.pop())
        if self.arriving and not self.over:
            oldest = next(iter(self.arriving.values()))
            if clock() - oldest.began > ARRIVAL_S * 1e9:
                self._failed(oldest, "not in place in time")

    def _begin(self, client: Client) -> None:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Ports are looked for per address; without the option bind() would take one at once.
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((self._address(client.place), 0))
        client.socket, client.began, client.live = connection, clock(), False
        client.rest, client.size, client.asked = b"", 0, 0
        client.greeting, client.connecting = client.talk.arrive(client, self.port), True
        fd = connection.fileno()
        self.by_fd[fd] = self.arriving[fd] = client
        connection.connect_ex(("127.0.0.1", self.port))
        self.epoll.register(fd, select.EPOLLOUT)

    def _address(self, place: int) -> str:
        return f"127.{self.net}.{self.share}.{1 + place // PER_ADDRESS % 250}"

    def _ready(self, client: Client) -> None:
        connection = client.socket
        assert connection
        if client.connecting and client.greeting is not None:
            failure = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self._ended(client, errno.errorcode[failure])
                return
            client.connecting = False
            self.epoll.modify(connection, select.EPOLLIN)
            connection.send(next(client.greeting))
            return
        if client.live and not client.sampled:
            size = connection.recv_into(self.view)
            client.size += size
            self.report.size += size
            if not size:
                self._ended(client, "closed without a word")
            return
        self._read(client, connection)

    def _read(self, client: Client, connection: socket.socket) -> None:
        rest = client.rest
        if rest:
            held = len(rest)
            if held + JOIN > len(self.buffer):
                raise Refused(f"a piece of more than {held} bytes")
            self.buffer[:held] = rest
            got = connection.recv_into(self.view[held:])
            size = held + got
        else:
            got = size = connection.recv_into(self.view)
        now = clock()
        if not got:
            self._ended(client, "closed without a word")
            return
        self.report.size += got
        if client.live:
            client.size += got
        end, pieces, reply = client.talk.cut(self.buffer, size)
        client.rest = bytes(self.view[end:size]) if end < size else b""
        stamps = FIELDS.findall(self.buffer, 0, end)
        if len(stamps) == pieces:
            self._take(client, stamps, now)
        else:
            for piece in list(client.talk.pieces(self.buffer, end)):
                stamps = FIELDS.findall(piece)
                if stamps:
                    self._take(client, stamps, now)
                elif not self._aside(client, piece):
                    return
        if reply:
            connection.send(reply)

    def _take(self, client: Client, stamps: list[tuple[bytes, bytes, bytes]], now: int) -> None:
        """Counts publications, in order."""
        seen = client.seen
        counts = self.apart if client.apart else self.counts
        for topic_digits, number_digits, due_digits in stamps:
            topic, number = int(topic_digits), int(number_digits)
            last = seen.get(topic)
            if last is None:
                continue  # it was on its way when the client left the topic
            if number != last + 1 and not self.ledger.judge(client.place, topic, number, last):
                continue
            seen[topic] = max(number, last)
            latency = now - int(due_digits)
            shift = latency.bit_length() - FINE_BITS - 1
            counts[latency if shift <= 0 else (shift << FINE_BITS) + (latency >> shift)] += 1
        self.report.deliveries += len(stamps)
        waited = now - self.since
        shift = waited.bit_length() - FINE_BITS - 1
        self.waited[waited if shift <= 0 else (shift << FINE_BITS) + (waited >> shift)] += 1

    def _aside(self, client: Client, piece: bytes) -> bool:
        """Understands something else; returns whether the connection goes on."""
        aside = client.talk.aside(client, piece)
        if aside is not None:
            self._note(client, aside)
            if aside.over:
                self._ended(client, aside.over, aside.retry_ms)
                return False
        if client.greeting is not None:
            assert client.socket
            try:
                if say := client.greeting.send(piece):
                    client.socket.send(say)
            except StopIteration:
                self._arrived(client)
        return True

    def _note(self, client: Client, aside: Aside) -> None:
        self.report.told += aside.told
        if aside.error and not _passing(aside.error):
            self.report.failures[aside.error] += 1
        if client.greeting is None:
            client.asked -= aside.answers

    def _arrived(self, client: Client) -> None:
        fd, report = client.socket.fileno() if client.socket else -1, self.report
        client.greeting, client.live, client.tries = None, True, 0
        self.arriving.pop(fd, None)
        for topic in client.topics:
            client.seen.setdefault(topic, 0)
        place = bucket(min(LONGEST, clock() - client.began))
        report.arrivals[place] = report.arrivals.get(place, 0) + 1
        if not client.sampled and client.socket:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOW_WATER)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)

    # Ends

    def _ended(self, client: Client, reason: str, retry_ms: int | None = None) -> None:
        """The server, or nobody, ended a connection. Its client comes back where it can resume."""
        self.report.ends[reason] += 1
        self._close(client)
        if self.over or not client.talk.resumes:
            return
        client.tries += 1
        pause = random.random() * min(4.0, RETRY_S * 2 ** (client.tries - 1))
        if retry_ms is not None:
            pause = retry_ms / 1000
        heapq.heappush(self.later, (time.monotonic() + pause, client.place, client))

    def _failed(self, client: Client, reason: str) -> None:
        self._close(client)
        if client.tries < TRIES and client.talk.resumes and not self.over and _passing(reason):
            self._ended(client, reason)
        else:
            self.report.failures[reason] += 1

    def _close(self, client: Client) -> None:
        if client.socket is None:
            return
        fd = client.socket.fileno()
        if client.read:
            self.epoll.unregister(fd)
        client.read = True
        self.by_fd.pop(fd, None)
        self.arriving.pop(fd, None)
        # A reset, as when a network is lost; and the port is free again at once.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()
        client.socket, client.greeting, client.live, client.rest = None, None, False, b""

    # Churn

    def _swap_some(self) -> None:
        """Lets as many clients leave a topic for another as are due by now."""
        now = time.monotonic()
        due = int((now - self.churned) * self.churn)
        if not due:
            return
        self.churned += due / self.churn
        for _ in range(due):
            client = random.choice(self.clients)
            if not client.live or client.asked or client.talk.name != "websocket":
                continue
            old = random.choice(client.topics)
            new = random.randrange(self.plan.topic_count)
            if new in client.topics or client.socket is None:
                continue
            client.topics[client.topics.index(old)] = new
            client.asked = 2
            client.socket.send(client.talk.swap(client, old, new))
            self.report.swaps += 1

    def begin_churn(self, rate: float) -> None:
        self.churn, self.churned = rate, time.monotonic()

    # Reports

    def reset(self) -> None:
        self.report = Report(self.share)
        self.began, self.cpu = time.monotonic(), time.process_time()

    def told(self) -> Report:
        """What happened since it was asked last."""
        report = self.report
        report.at = time.monotonic()
        report.seconds = report.at - self.began
        report.cpu_s = time.process_time() - self.cpu
        ledger = self.ledger
        report.lost, report.duplicates = ledger.lost, ledger.duplicates
        report.disordered = ledger.disordered
        report.live = sum(client.live for client in self.clients)
        report.latencies = {place: count for place, count in enumerate(self.counts) if count}
        report.waited = {place: count for place, count in enumerate(self.waited) if count}
        self.counts = [0] * len(self.counts)
        self.waited = [0] * len(self.waited)
        self.reset()
        return report


def _passing(refusal: str) -> bool:
    """Whether what is refused may be tried again: the server is busy, or goes down."""
    return " 50" in refusal or "unavailable" in refusal


def listen(listeners: Listeners, pipe: Connection) -> None:
    """The life of the process: obeys what comes through the pipe, and reports every second."""
    listeners.epoll.register(pipe.fileno(), select.EPOLLIN)
    due = time.monotonic() + REPORT_S
    try:
        while True:
            strangers = listeners.turn(max(0.0, due - time.monotonic()))
            if time.monotonic() >= due:
                due += REPORT_S
                pipe.send(listeners.told())
            if pipe.fileno() in strangers:
                match pipe.recv():
                    case ("arrive", float(share)):
                        listeners.arrive(share)
                    case ("live",):
                        pipe.send(listeners.told())
                    case ("told",):
                        pipe.send(listeners.told())
                        pipe.send("told")
                    case ("event", str(name), float(share)):
                        listeners.event(name, share)
                    case ("churn", float(rate)):
                        listeners.begin_churn(rate)
                    case ("drain",):
                        listeners.drain()
                    case ("missing", list(last)):
                        pipe.send(listeners.missing(last))
                    case ("over",):
                        listeners.over = True
                        listeners.churn = 0.0
    except (EOFError, ConnectionError):  # what it said last was not read
        listeners.over = True
        listeners.close()
