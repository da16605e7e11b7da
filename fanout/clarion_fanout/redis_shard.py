"""One Redis primary: its two connections, and the truth about whether they work.

    commands   publishes, reads, everything that is answered; see `redis_pipeline`
    intake     what is published to us; see `redis_intake` and `redis_subscriptions`

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
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, NoReturn

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address
from clarion_fanout.redis_intake import Intake, pause
from clarion_fanout.redis_pipeline import IN_FLIGHT_COMMANDS, Pipeline
from clarion_fanout.redis_query import Refusal, log_in
from clarion_fanout.redis_scripts import Script
from clarion_fanout.redis_subscriptions import Listener, Subscriptions
from clarion_fanout.redis_wire import Argument, Reply, pack
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

GRACE_SECONDS = 0.5
"""How long a command waits for a connection that was lost just now: most come back within a few
milliseconds (`CLIENT KILL`, a restart of a proxy). Nothing was sent, so waiting is safe, as long
as the next connection is to the same reign."""

BRIEF_SECONDS = 1.0
"""When two connections in a row end sooner, they do not work: the next comes after a pause."""

TICK_SECONDS = 0.1
"""How often deadlines are looked at."""

OLDEST = (7, 0)
"""Redis 7.0 brought sharded pub/sub; Valkey says 7.2 or more."""

_LATE = "no answer in time"

_ASKING = pack(("ASKING",))


def _ignore(*_: object) -> None:
    """What a shard finds out and nobody wants to know."""


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


class Shard:
    """See the module's text.

    name: decides which topics are here; see `placement`.
    locate: says where the primary is now. Raises `OSError` when nobody can say.
    probe_channel: called for the channel of the probes, which must be one of this shard's; None
        if there is none. Then the shard is not probed.
    slot_of: the slot of a channel, where pub/sub is the sharded one.
    moved: called with what a node of a cluster says of a slot that it does not have: `slot
        host:port`. A channel in it is subscribed to again a moment later, unless it is released.
    doubt: called when the server may not be what it was: it is gone, or a replica now, or has
        ended a subscription.
    """

    def __init__(
        self,
        name: str,
        locate: Callable[[], Awaitable[Address]],
        *,
        options: ShardOptions,
        scripts: Sequence[Script],
        probe_channel: Callable[[], bytes | None],
        slot_of: Callable[[bytes], int] | None = None,
        moved: Callable[[str], None] = _ignore,
        doubt: Callable[[], None] = _ignore,
    ) -> None:
        self.name = name
        self.reign = b""
        self.address: Address | None = None
        """Where it was found last."""
        self.interruptions: Counter[tuple[str, str]] = Counter()
        """Connections that were lost, by which one and why: `closed`, `timeout`, `probe`."""
        self.refused = 0
        """Commands that were refused at once, as there was no connection, or too much to do."""
        self._locate = locate
        self._options = options
        self._scripts = scripts
        self._publish = "PUBLISH" if slot_of is None else "SPUBLISH"
        self._moved = moved
        self._doubt = doubt
        self._pipeline = Pipeline(name)
        self._up = asyncio.Event()
        self._decided = asyncio.Event()  # up, or known to be away
        self._waiting = 0  # commands, for that
        self._retry_at = 0.0
        self._trouble_told = ""
        self._refusal_told = ""
        self.subscriptions = Subscriptions(
            linger_s=options.linger_s, slot_of=slot_of, ended=self._ended
        )
        self._intake = Intake(
            self.subscriptions,
            primary=self._primary,
            probe_channel=probe_channel,
            client=f"{options.client}-intake",
            timeout_s=options.timeout_s,
            retry_s=options.retry_s,
            ended=lambda reason: self._note("intake", reason),
        )
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
        return time.monotonic() - self._intake.probe.proven

    @property
    def trouble(self) -> str:
        """Why the shard cannot be relied on now; empty when it can."""
        if not self.available:
            return "not connected"
        age = self.probe_age()
        if age > self._options.timeout_s + 2 * self._options.probe_s:
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
        """`calls` for commands that are packed already, some of which may name the reign."""
        if not self._up.is_set():
            reign = self.reign
            await self._wait(count)
            if reign and self.reign != reign:
                # A stream that has stepped back would go on as if it had not.
                self.refused += count
                raise BrokerUnavailable(f"shard {self.name} was replaced", self.retry_ms)
        try:
            answer = self._pipeline.send(packed, count)
        except BrokerUnavailable as error:
            self.refused += count
            raise BrokerUnavailable(str(error), self.retry_ms) from None
        try:
            replies = await answer
        except BrokerUnavailable as error:
            raise BrokerUnavailable(str(error), self.retry_ms) from None
        # Each costs 30 ns, and most batches have no error.
        if hiredis.ReplyError in map(type, replies):
            self._heed_errors(replies)
        return replies

    def _heed_errors(self, replies: list[Reply]) -> None:
        for reply in replies:
            if type(reply) is hiredis.ReplyError:
                kind, _, rest = str(reply).partition(" ")
                if kind == "READONLY":
                    self._pipeline.abort("it is a replica now")
                elif kind == "MOVED":
                    self._moved(rest)

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

    async def sends(self, commands: Sequence[bytes], *, asking: bool = False) -> list[Reply]:
        """`send` for commands apart, among which may be calls of scripts.

        Those that Redis has forgotten (`SCRIPT FLUSH`) are sent to it, and called after the rest.
        asking: whether they concern a slot that is on its way to this node of a cluster.
        """
        replies = await self._send_each(commands, asking)
        if hiredis.ReplyError in map(type, replies) and (
            forgotten := [place for place, reply in enumerate(replies) if _forgotten(reply)]
        ):
            await self.calls([("SCRIPT", "LOAD", script.text) for script in self._scripts])
            again = await self._send_each([commands[place] for place in forgotten], asking)
            for place, reply in zip(forgotten, again, strict=True):
                replies[place] = reply
        return replies

    async def _send_each(self, commands: Sequence[bytes], asking: bool) -> list[Reply]:
        if not asking:
            return await self.send(b"".join(commands), len(commands))
        packed = b"".join([_ASKING + command for command in commands])
        return (await self.send(packed, 2 * len(commands)))[1::2]

    async def _wait(self, count: int) -> None:
        if not self._decided.is_set() and self._waiting + count <= IN_FLIGHT_COMMANDS:
            self._waiting += count
            try:
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._decided.wait()
            except TimeoutError:
                pass
            finally:
                self._waiting -= count
        if not self._up.is_set():
            self.refused += count
            raise BrokerUnavailable(f"shard {self.name} is not connected", self.retry_ms)

    async def renew_reign(self) -> None:
        """Reads the reign anew. Raises `BrokerUnavailable`."""
        self._heed(await self.call("INFO", "replication"))

    # Subscriptions

    def listen(self, channel: bytes, listener: Listener) -> bool:
        """Subscribes, soon; `listener.subscribed` is called when it is done, and again whenever
        it had to be done anew. Says whether it is done already."""
        return self._intake.listen(channel, listener)

    def unlisten(self, channel: bytes) -> None:
        """Unsubscribes at leisure."""
        self.subscriptions.unlisten(channel, time.monotonic())

    def listens(self, channel: bytes) -> bool:
        """Whether what is published on the channel arrives."""
        return channel in self.subscriptions.confirmed

    def release(self, slot: int) -> dict[bytes, Listener]:
        """Gives away the listeners of a slot; see `Subscriptions.release`."""
        return self.subscriptions.release(slot)

    def adopt(self, slot: int, listeners: dict[bytes, Listener]) -> None:
        """Takes in listeners of a slot, which was elsewhere until now."""
        self._intake.adopt(slot, listeners)

    def renew_probe(self) -> None:
        """Looks for the channel of the probes anew."""
        self._intake.renew_probe()

    def _ended(self, channel: bytes, error: str) -> None:
        kind, _, rest = error.partition(" ")
        if kind == "MOVED":
            self._moved(rest)
            return
        self._doubt()
        if kind not in ("", "CLUSTERDOWN") and error != self._refusal_told:
            # Once: a thousand channels are refused for one reason.
            log.error("shard %s refused to subscribe to %r: %s", self.name, channel, error)
            self._refusal_told = error

    # Life

    def start(self, tasks: Tasks) -> None:
        """Begins to connect."""
        tasks.start(self._keep_commands(), f"commands of shard {self.name}")
        tasks.start(self._intake.keep(), f"intake of shard {self.name}")
        tasks.start(self._tick(), f"probes of shard {self.name}")

    async def tried(self) -> None:
        """Returns when the shard is connected, or the first attempt has failed."""
        await self._decided.wait()

    async def close(self) -> None:
        """Ends both connections. Whoever started the tasks has ended them."""
        self._closed = True
        self._up.clear()
        self._decided.set()
        await self._pipeline.close()
        await self._intake.close()

    def reopen(self, reason: str) -> None:
        """Gives both connections up and looks for the primary anew."""
        self._pipeline.abort(reason)
        self._intake.abort(reason)

    async def _keep_commands(self) -> NoReturn:
        failures = 0
        brief = 0
        while True:
            try:
                ended = await self._open_commands()
            except OSError as error:
                self._decided.set()
                self._tell(_plain(error))
            else:
                self._tell("")
                opened = time.monotonic()
                reason = await ended
                self._note("commands", reason)
                self._doubt()
                brief = brief + 1 if time.monotonic() - opened < BRIEF_SECONDS else 0
                if brief < 2:
                    failures = 0
                    continue
                self._decided.set()
            seconds = pause(self._options.retry_s, failures)
            failures += 1
            self._retry_at = time.monotonic() + seconds
            await asyncio.sleep(seconds)

    async def _open_commands(self) -> asyncio.Future[str]:
        """Opens the connection; the answer is done when that has ended. Raises `OSError`."""
        address = await self._locate()
        wire, replies = await log_in(
            address,
            [("INFO",), *(("SCRIPT", "LOAD", script.text) for script in self._scripts)],
            self._options.timeout_s,
            client=f"{self._options.client}-commands",
        )
        try:
            self._learn(_facts(replies[0]))
        except Refusal:
            await wire.close()
            raise
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def lost(reason: str) -> None:
            # At once: what is sent from now on must not go to a connection that is gone. But it
            # may wait for the next, unless the server is there and does not answer.
            self._up.clear()
            if reason != _LATE:
                self._decided.clear()
            self._pipeline.lost(reason)
            if not ended.done():
                ended.set_result(reason)

        wire.hand_over(self._pipeline.received, lost)
        self._pipeline.attach(wire)
        self.address = address
        if self._intake.address not in (None, address):
            # It moved. Where it was, there may be a server that publishes, but nothing of ours.
            self._intake.abort("the primary is elsewhere")
        self._up.set()
        self._decided.set()
        return ended

    async def _primary(self) -> Address:
        """Where the primary is, once commands are connected to it."""
        await self._up.wait()
        assert self.address is not None, "commands are connected to somewhere"
        return self.address

    def _learn(self, facts: dict[str, str]) -> None:
        """Takes over what INFO says. Raises `Refusal`."""
        version = re.match(r"(\d+)\.(\d+)", facts.get("redis_version", ""))
        if version and (int(version[1]), int(version[2])) < OLDEST:
            raise Refusal(f"is Redis {version[0]}; 7.0 is the oldest that will do")
        if facts.get("role") != "master":
            raise Refusal(f"is a {facts.get('role', 'server that says no role')}")
        self.reign = facts.get("master_replid", "").encode()

    # Probes and deadlines

    async def _tick(self) -> NoReturn:
        next_probe, last = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            slept, last = now - last, now
            if slept > self._options.timeout_s / 2:
                # We were stopped, or too busy: the answers may be there, and not read yet.
                continue
            if self._pipeline.late(now) > self._options.timeout_s:
                self._pipeline.abort(_LATE)
            self._intake.look(now)
            if self.available and now >= next_probe:
                next_probe = now + self._options.probe_s
                self._send_probe(now)

    def _send_probe(self, now: float) -> None:
        commands: list[tuple[Argument, ...]] = [("INFO", "replication")]
        if channel := self._intake.probing:
            commands.append((self._publish, channel, self._intake.probe.next(now)))
        packed = b"".join([pack(command) for command in commands])
        answer = self._pipeline.send(packed, len(commands), urgent=True)
        answer.add_done_callback(self._probe_sent)

    def _probe_sent(self, answer: asyncio.Future[list[Reply]]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._intake.probe.forget()  # it may never have been published
            return
        info, *published = answer.result()
        if isinstance(info, bytes):
            self._heed(info)
        if published and isinstance(published[0], hiredis.ReplyError):
            self._intake.probe.forget()
            self._doubt()

    def _heed(self, info: bytes) -> None:
        """Takes over what INFO says now; a primary may have become a replica."""
        try:
            self._learn(_facts(info))
        except Refusal as error:
            self._pipeline.abort(str(error))

    def _note(self, link: str, reason: str) -> None:
        kind = {_LATE: "timeout", "a probe did not come back": "probe"}
        self.interruptions[link, kind.get(reason, "closed")] += 1
        log.warning("shard %s: the %s connection ended: %s", self.name, link, reason)

    def _tell(self, trouble: str) -> None:
        """Logs what has changed, once."""
        if trouble and trouble != self._trouble_told:
            log.warning("shard %s %s; trying again", self.name, trouble)
        elif self._trouble_told and not trouble:
            log.info("shard %s is connected again", self.name)
        self._trouble_told = trouble


def _facts(info: bytes) -> dict[str, str]:
    """What INFO says, by name."""
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _forgotten(reply: Reply) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _plain(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, Refusal):
        return str(error)
    return f"cannot be reached: {error.strerror or error}"
