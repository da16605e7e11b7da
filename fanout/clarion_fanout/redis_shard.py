"""One Redis primary: its two connections, and the truth about whether they work.

    commands   publishes, reads, everything that is answered; see `redis_pipeline`
    intake     what is published to us; see `redis_subscriptions`

Each is opened again when it is lost, after a pause that grows and is random. A shard without a
commands connection refuses at once: nobody waits for a server that is away, and the pause is
what a refused publisher is told to wait. That is the circuit breaker: it opens when an answer is
late or the connection ends, and closes when a new connection has answered.

Being connected proves little: a stopped process keeps its connections, and a subscriber that
Redis has dropped may not hear of it. So each second a probe is published through the one and
must come back through the other; when it does not, the intake is opened anew.

Reign: a primary's data may step back when it restarts or a replica takes over. `reign` names the
time between two such moments (Redis' `master_replid`); scripts compare it with the one that wrote
a stream last. It is read anew with each probe.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address
from clarion_fanout.redis_pipeline import Pipeline
from clarion_fanout.redis_query import login
from clarion_fanout.redis_scripts import Script
from clarion_fanout.redis_subscriptions import Listener, Subscriptions
from clarion_fanout.redis_wire import Argument, Reply, Wire, connect, pack
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

GRACE_SECONDS = 0.5
"""How long a command waits for a connection that was lost just now: most come back within a few
milliseconds (`CLIENT KILL`, a restart of a proxy). Nothing was sent, so waiting is safe."""

TICK_SECONDS = 0.1
"""How often deadlines are looked at."""

_LATE = "no answer in time"

OLDEST = (7, 0)
"""Redis 7.0 brought sharded pub/sub; Valkey says 7.2 or more."""


class ShardOptions(NamedTuple):
    """How patient a shard is; seconds.

    timeout_s: an answer that takes longer never comes; also for connecting.
    probe_s: between two probes.
    retry_s: the bounds of the pause between two attempts to connect: it grows from the first to
        the second, and the actual one is random below it.
    linger_s: how long an unused subscription is kept.
    client: how our connections call themselves in Redis' `CLIENT LIST`.
    """

    timeout_s: float = 2.0
    probe_s: float = 1.0
    retry_s: tuple[float, float] = (0.1, 2.0)
    linger_s: float = 5.0
    client: str = "clarion"


class _NotAPrimary(Exception):
    """What answered cannot be used as a shard. The text says why."""


class Shard:
    """See the module's text.

    name: decides which topics are here; see `placement`.
    locate: says where the primary is now. Raises `OSError` when nobody can say.
    probe_channel: called for the channel of the next probe; it must be one of this shard's.
    """

    def __init__(
        self,
        name: str,
        locate: Callable[[], Awaitable[Address]],
        *,
        options: ShardOptions,
        scripts: Sequence[Script],
        probe_channel: Callable[[], bytes],
        slot_of: Callable[[bytes], int] | None = None,
        moved: Callable[[bytes, str], None] | None = None,
        readonly: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.reign = b""
        self.address: Address | None = None
        """Where it was found last."""
        self.interruptions: Counter[tuple[str, str]] = Counter()
        """Connections that were lost, by which one and why: `closed`, `timeout`, `probe`."""
        self.refused = 0
        """Commands that were refused at once, as there was no connection."""
        self._locate = locate
        self._options = options
        self._scripts = scripts
        self._probe_channel = probe_channel
        self._sharded = slot_of is not None
        self._readonly = readonly
        self._pipeline = Pipeline(name)
        self._up = asyncio.Event()
        self._tried = asyncio.Event()
        self._failures = 0  # of connecting, since it worked last
        self._intake_failures = 0  # likewise, of the intake
        self._retry_at = 0.0
        self._intake: Wire | None = None
        self._told = ""
        self.subscriptions = Subscriptions(linger_s=options.linger_s, slot_of=slot_of, moved=moved)
        self._flushing = False
        self._probe = _Probe()
        self._probing: bytes | None = None
        self._closed = False

    # What it says of itself

    @property
    def available(self) -> bool:
        """Whether commands can be sent."""
        return self._up.is_set()

    @property
    def in_flight(self) -> int:
        """Commands without an answer yet."""
        return self._pipeline.in_flight

    def probe_age(self) -> float:
        """Seconds since a probe was sent that came back; infinity before the first."""
        return time.monotonic() - self._probe.proven

    @property
    def trouble(self) -> str:
        """Why the shard cannot be relied on now; empty when it can."""
        if not self.available:
            return "not connected"
        if self.probe_age() > self._options.timeout_s + 2 * self._options.probe_s:
            age = self.probe_age()
            return "no probe has come back yet" if age > 1e6 else f"no probe for {age:.0f} s"
        return ""

    @property
    def retry_ms(self) -> int:
        """When a publisher that was refused should try again."""
        left = max(0.0, self._retry_at - time.monotonic())
        return int(left * 1000) + random.randint(100, 1000)

    # Commands

    async def call(self, *command: Argument) -> Reply:
        """Sends one command. Raises `BrokerUnavailable`, also for an error that Redis answers."""
        (reply,) = await self.calls([command])
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerUnavailable(f"shard {self.name} answered {reply}", self.retry_ms)
        return reply

    async def calls(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Sends commands in one go; errors stand among the replies as `hiredis.ReplyError`.

        Raises `BrokerUnavailable` when there is no connection, or it is lost: then nobody knows
        which of them were executed.
        """
        packed = b"".join([pack(tuple(command)) for command in commands])
        return await self.send(packed, len(commands))

    async def send(self, packed: bytes, count: int) -> list[Reply]:
        """`calls` for commands that are packed already."""
        if not self._up.is_set():
            await self._wait()
        try:
            replies = await self._pipeline.send(packed, count)
        except BrokerUnavailable as error:
            raise BrokerUnavailable(str(error), self.retry_ms) from None
        # Each costs 30 ns, and most batches have no error.
        if hiredis.ReplyError in map(type, replies) and any(map(_refuses_writes, replies)):
            self._pipeline.abort("it is a replica now")
            if self._readonly is not None:
                self._readonly()
        return replies

    async def run(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]
    ) -> Reply:
        """Runs a script. Raises `BrokerUnavailable`, also for an error that it answers."""
        (reply,) = await self.runs([(script, keys, arguments)])
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerUnavailable(f"shard {self.name} answered {reply}", self.retry_ms)
        return reply

    async def runs(
        self, calls: Sequence[tuple[Script, Sequence[bytes], Sequence[Argument]]]
    ) -> list[Reply]:
        """Runs scripts in one go, as `calls`. Redis may have forgotten them: then they are sent."""
        return await self.sends(
            [script.packed(keys, arguments) for script, keys, arguments in calls]
        )

    async def sends(self, commands: Sequence[bytes]) -> list[Reply]:
        """`send` for commands apart, among which may be calls of scripts.

        Those that Redis has forgotten (`SCRIPT FLUSH`) are sent to it, and called after the rest.
        """
        replies = await self.send(b"".join(commands), len(commands))
        if hiredis.ReplyError in map(type, replies) and (
            forgotten := [place for place, reply in enumerate(replies) if _forgotten(reply)]
        ):
            await self.calls([("SCRIPT", "LOAD", script.text) for script in self._scripts])
            again = await self.send(
                b"".join(commands[place] for place in forgotten), len(forgotten)
            )
            for place, reply in zip(forgotten, again, strict=True):
                replies[place] = reply
        return replies

    async def _wait(self) -> None:
        if not self._failures and not self._closed:
            try:
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._up.wait()
            except TimeoutError:
                pass
            else:
                return
        self.refused += 1
        raise BrokerUnavailable(f"shard {self.name} is not connected", self.retry_ms)

    async def renew_reign(self) -> None:
        """Reads the reign anew. Raises `BrokerUnavailable`."""
        self._heed(await self.call("INFO", "replication"))

    # Subscriptions

    def listen(self, channel: bytes, listener: Listener) -> bool:
        """Subscribes, soon; `listener.subscribed` is called when it is done, and again whenever
        it had to be done anew. Says whether it is done already."""
        done = self.subscriptions.listen(channel, listener)
        if not done:
            self._flush_soon()
        return done

    def unlisten(self, channel: bytes) -> None:
        """Unsubscribes at leisure."""
        self.subscriptions.unlisten(channel, time.monotonic())

    def listens(self, channel: bytes) -> bool:
        """Whether what is published on the channel arrives."""
        return channel in self.subscriptions.confirmed

    def resubscribe(self, channel: bytes) -> None:
        """Subscribes anew to a channel that was refused or ended."""
        self.subscriptions.again(channel)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._intake is not None and (data := self.subscriptions.commands()):
            self._intake.write(data)

    def _received(self, replies: list[Reply]) -> None:
        self.subscriptions.received(replies)
        self._flush()  # answers make room for more

    # Life

    def start(self, tasks: Tasks) -> None:
        """Begins to connect."""
        tasks.start(self._keep_commands(), f"commands of shard {self.name}")
        tasks.start(self._keep_intake(), f"intake of shard {self.name}")
        tasks.start(self._tick(), f"probes of shard {self.name}")

    async def tried(self) -> None:
        """Returns when the shard is connected, or the first attempt has failed."""
        await self._tried.wait()

    async def close(self) -> None:
        """Ends both connections. Whoever started the tasks has ended them."""
        self._closed = True
        self._up.clear()
        intake, self._intake = self._intake, None
        await self._pipeline.close()
        if intake is not None:
            await intake.close()

    def reopen(self, reason: str) -> None:
        """Gives both connections up and looks for the primary anew."""
        self._pipeline.abort(reason)
        if self._intake is not None:
            self._intake.abort(reason)

    async def _keep_commands(self) -> None:
        while True:
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            try:
                await self._open_commands(ended)
            except (OSError, BrokerUnavailable, _NotAPrimary) as error:
                await self._pipeline.close()
                self._tried.set()
                self._tell(_plain(error))
                pause = self._pause(self._failures)
                self._failures += 1
                self._retry_at = time.monotonic() + pause
                await asyncio.sleep(pause)
                continue
            self._tell("")
            self._failures = 0
            self._up.set()
            self._tried.set()
            reason = await ended
            self._up.clear()
            self._note("commands", reason)

    async def _open_commands(self, ended: asyncio.Future[str]) -> None:
        address = await self._locate()
        self.address = address
        pipeline = self._pipeline

        def lost(reason: str) -> None:
            # At once: what is sent from now on must not wait for a connection that is gone.
            self._up.clear()
            if reason == _LATE:
                # It is there and does not answer: nothing is gained by waiting for it.
                self._failures = 1
            pipeline.lost(reason)
            if not ended.done():
                ended.set_result(reason)

        timeout_s = self._options.timeout_s
        wire = await connect(address, pipeline.received, lost, timeout_s)
        pipeline.attach(wire)
        commands = [*login(address, f"{self._options.client}-commands"), ("INFO",)]
        commands += [("SCRIPT", "LOAD", script.text) for script in self._scripts]
        packed = b"".join([pack(tuple(command)) for command in commands])
        async with asyncio.timeout(timeout_s):
            replies = await pipeline.send(packed, len(commands))
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise _NotAPrimary(f"answered {reply}")
        self._learn(_facts(replies[len(commands) - len(self._scripts) - 1]))

    def _learn(self, facts: dict[str, str]) -> None:
        """Takes over what INFO says. Raises `_NotAPrimary`."""
        version = facts.get("redis_version", "")
        if version and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise _NotAPrimary(f"is Redis {version}; 7.0 is the oldest that will do")
        if facts.get("role") != "master":
            raise _NotAPrimary(f"is a {facts.get('role', 'server that says no role')}")
        self.reign = facts.get("master_replid", "").encode()

    async def _keep_intake(self) -> None:
        while True:
            await self._up.wait()
            address = self.address
            assert address is not None, "commands are connected to somewhere"
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            try:
                wire = await self._open_intake(address, ended)
            except OSError:
                pass
            else:
                self._intake = wire
                self._probe.forget()
                self._listen_for_probes()
                self._flush()
                opened = time.monotonic()
                self._note("intake", await ended)
                if self._probe.proven > opened:
                    self._intake_failures = 0  # it did work
            # Also after the first time: all workers of all instances may have been cut off.
            await asyncio.sleep(self._pause(self._intake_failures))
            self._intake_failures += 1

    def _not_subscribed(self, channel: bytes, reason: str) -> None:
        if self._intake is not None:
            log.error("shard %s refused to subscribe to %r: %s", self.name, channel, reason)
            self._intake.abort("a subscription was refused")

    async def _open_intake(self, address: Address, ended: asyncio.Future[str]) -> Wire:
        def lost(reason: str) -> None:
            self._intake = None
            self.subscriptions.lost()
            if not ended.done():
                ended.set_result(reason)

        wire = await connect(address, self._received, lost, self._options.timeout_s)
        commands = login(address, f"{self._options.client}-intake")
        wire.write(b"".join([pack(command) for command in commands]))
        self.subscriptions.connected()
        return wire

    def _pause(self, failures: int) -> float:
        least, most = self._options.retry_s
        bound = min(most, least * 2 ** min(failures, 16))
        return random.uniform(bound / 2, bound)

    # Probes and deadlines

    def _listen_for_probes(self) -> None:
        channel = self._probe_channel()
        if self._probing is not None and self._probing != channel:
            self.subscriptions.forget(self._probing)
        self._probing = channel
        self.subscriptions.listen(channel, self._probe)

    async def _tick(self) -> None:
        next_probe = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if self._pipeline.late(now) > self._options.timeout_s:
                self._pipeline.abort(_LATE)
            if self._intake is not None:
                if self._probe.overdue(now) > self._options.timeout_s:
                    self._intake.abort("a probe did not come back")
                elif data := self.subscriptions.sweep(now):
                    self._intake.write(data)
            if self.available and now >= next_probe:
                next_probe = now + self._options.probe_s
                self._send_probe(now)

    def _send_probe(self, now: float) -> None:
        channel = self._probing
        commands: list[tuple[Argument, ...]] = [("INFO", "replication")]
        if channel is not None and channel in self.subscriptions.confirmed:
            publish = "SPUBLISH" if self._sharded else "PUBLISH"
            commands.append((publish, channel, self._probe.next(now)))
        packed = b"".join([pack(command) for command in commands])
        try:
            answer = self._pipeline.send(packed, len(commands))
        except BrokerUnavailable:
            return
        answer.add_done_callback(self._probe_sent)

    def _probe_sent(self, answer: asyncio.Future[list[Reply]]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._probe.forget()  # it may never have been published
            return
        replies = answer.result()
        if isinstance(replies[0], bytes):
            self._heed(replies[0])
        if len(replies) > 1 and isinstance(replies[1], hiredis.ReplyError):
            self._probe.forget()
            if self._probing is not None and self._sharded:
                self._listen_for_probes()
                self._flush()

    def _heed(self, info: bytes) -> None:
        """Takes over what INFO says now; a primary may have become a replica."""
        try:
            self._learn(_facts(info))
        except _NotAPrimary as error:
            self._pipeline.abort(str(error))

    def _note(self, link: str, reason: str) -> None:
        kind = {_LATE: "timeout", "a probe did not come back": "probe"}
        self.interruptions[link, kind.get(reason, "closed")] += 1
        if not self._closed:
            log.warning("shard %s: the %s connection ended: %s", self.name, link, reason)

    def _tell(self, trouble: str) -> None:
        """Logs what has changed, once."""
        if trouble and trouble != self._told:
            log.warning("shard %s: %s; trying again", self.name, trouble)
        elif self._told and not trouble:
            log.info("shard %s: connected again", self.name)
        self._told = trouble


class _Probe:
    """The listener of the probes: which are on their way, and when one came back."""

    def __init__(self) -> None:
        self.proven = float("-inf")
        """When the last one that came back was sent; monotonic seconds."""
        self._number = 0
        self._sent: deque[tuple[int, float]] = deque()

    def next(self, now: float) -> int:
        self._number += 1
        self._sent.append((self._number, now))
        return self._number

    def forget(self) -> None:
        self._sent.clear()

    def overdue(self, now: float) -> float:
        """For how long the oldest has been on its way."""
        return now - self._sent[0][1] if self._sent else 0.0

    def take(self, payload: bytes) -> None:
        number = int(payload) if payload.isdigit() else 0
        while self._sent and self._sent[0][0] <= number:
            _, self.proven = self._sent.popleft()

    def subscribed(self) -> None:
        pass

    def dropped(self) -> None:
        pass


def _facts(info: bytes) -> dict[str, str]:
    """What INFO says, by name."""
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _forgotten(reply: Reply) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _refuses_writes(reply: Reply) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY")


def _plain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or error}"
    return str(error)
