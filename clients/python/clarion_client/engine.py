"""What moves the client: it carries out what the machine says, and keeps its clock.

    machine.py   decides: when to connect, what to ask for, what an answer means
    link.py      one connection to the server, in a task
    mailbox.py   one queue for each subscription

One more thing is decided here, as it lies between the two ends: when a queue is full whose policy
is to wait, the link is not read. But a program that is behind may be waiting for an answer
(`await client.history(...)` within `async for`), which stands behind messages that are not read
either. So while somebody expects an answer, reading goes on, up to a bound of bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress

from clarion_client import codes, machine, wire
from clarion_client.errors import ClarionError, Closed, Unanswered
from clarion_client.events import Ended, Event, Message, Phase, Position, State
from clarion_client.link import Link, Target
from clarion_client.mailbox import Mailbox
from clarion_client.tasks import Tasks
from clarion_client.tokens import Tokens

log = logging.getLogger("clarion_client")

OVERRUN_BYTES = 8 * 1024 * 1024
"""What is read beyond full queues for the sake of an answer: more than what can stand before it, a
server's window of 1 MiB and the kernels' buffers."""

UNREAD_S = 5.0
"""After so long with nothing read a line is logged: half of the time that the server gives us."""


class Engine:
    """See the module's text. It is the `Owner` of subscriptions and the `Listener` of links."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        machine: machine.Machine,
        target: Target,
        tokens: Tokens,
        on_state: Callable[[State], None] | None,
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._target = target
        self._tokens = tokens
        self._on_state = on_state
        self._tasks = Tasks(self._broken)
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handles do not always tell
        self._link: Link | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._boxes: dict[str, list[Mailbox]] = {}
        self._given: Mailbox | None = None
        self._answers: dict[int, asyncio.Future[wire.Answer]] = {}
        self._changed = asyncio.Event()
        self._pumping = False
        self._pump_planned = False
        self._full: set[Mailbox] = set()
        self._room = asyncio.Event()
        self._expecting = 0
        self._overrun = 0

    @property
    def state(self) -> State:
        return self._machine.state

    def start(self) -> None:
        """Begins with the first attempt to connect."""
        self._machine.start(self._loop.time())
        self._pump()

    async def close(self) -> None:
        """Ends everything, and waits for it: `close_s` at most, and a turn of the loop."""
        self._machine.stop()
        self._pump()
        try:
            if self._attempt is not None:
                await asyncio.wait([self._attempt], timeout=self._target.close_s)
        finally:
            await self._tasks.close()

    def run(self, work: Coroutine[object, object, None], name: str) -> None:
        """Runs `work` for as long as the client, in a task."""
        self._tasks.start(work, name)

    async def connected(self) -> State:
        """Waits for a connection. Raises `Closed` when there will be none."""
        while (state := self.state).phase is not Phase.CONNECTED:
            self.check_open()
            self._changed.clear()
            await self._changed.wait()
        return state

    def check_open(self) -> None:
        """Raises `Closed` when the client is."""
        if self.state.phase is Phase.CLOSED:
            error = self.state.error
            # An exception that is raised in several places would collect all their tracebacks.
            raise Closed("the client is closed") if error is None else Closed(*error.args)

    async def ask(self, encode: Callable[[int], str], reads: bool, limit_s: float) -> wire.Answer:
        """A command and its answer. Raises `Refused`, `Unanswered` or `Closed`."""
        id = self._machine.ask(encode, reads=reads)
        answer: asyncio.Future[wire.Answer] = self._loop.create_future()
        self._answers[id] = answer
        timer = self._loop.call_later(limit_s, self._late, id, limit_s)
        try:
            with self.expecting():
                self._pump()
                return await answer
        finally:
            timer.cancel()
            del self._answers[id]
            self._machine.forget(id)

    def _late(self, id: int, limit_s: float) -> None:
        answer = self._answers[id]
        if not answer.done():
            sent = self._machine.forget(id)
            what = "no answer" if sent else "no connection"
            answer.set_exception(Unanswered(f"{what} within {limit_s:g} s", sent))

    # Subscriptions

    def take_given(self, mailbox: Mailbox) -> None:
        """The mailbox for topics that the backend subscribes us to."""
        if self._given is not None:
            raise ValueError("there is one such subscription already")
        self._given = mailbox
        self._machine.interests.takes_given = True

    def check_wish(self, mailbox: Mailbox, topic: str, since: Position | None, last: int) -> None:
        """Raises `ValueError` for what cannot be subscribed."""
        wire.check_topic(topic)
        if mailbox.over:
            raise ValueError("the subscription is over")
        if since is not None and last:
            raise ValueError("since or last, not both")
        if topic in mailbox.topics:
            raise ValueError(f"{topic!r} is part of this subscription already")
        if topic in self._boxes and (since is not None or last):
            text = f"{topic!r} is subscribed already, and is shared: from now on only"
            raise ValueError(f"{text}; `history` has what was before")

    def extend(self, mailbox: Mailbox, topic: str, since: Position | None, last: int) -> None:
        interests = self._machine.interests
        mailbox.join(topic)
        self._boxes.setdefault(topic, []).append(mailbox)
        interests.hold(topic, since, last)
        granted = interests.granted(topic)
        if granted is not None:
            mailbox.put(granted)
        self._pump_later()

    def shrink(self, mailbox: Mailbox, topic: str) -> None:
        mailbox.part(topic)
        self._unlink(mailbox, topic)

    def leave(self, mailbox: Mailbox) -> None:
        mailbox.end()
        for topic in tuple(mailbox.topics):
            self._unlink(mailbox, topic)
        if mailbox is self._given:
            self._given = None
            self._machine.interests.takes_given = False
        self.took()

    def abandoned(self, mailbox: Mailbox) -> None:
        # The collector may run in any thread, and after the loop.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.leave, mailbox)

    def _unlink(self, mailbox: Mailbox, topic: str) -> None:
        boxes = self._boxes.get(topic, [])
        if mailbox in boxes:
            boxes.remove(mailbox)
            if not boxes:
                del self._boxes[topic]
                self._machine.release(topic)
                self._pump_later()

    def _deliver(self, event: Event) -> None:
        boxes = self._boxes.get(event.topic)
        if boxes is None:
            if self._given is None:
                return  # nobody is interested any more
            self._given.join(event.topic)
            boxes = self._boxes[event.topic] = [self._given]
        for mailbox in tuple(boxes):
            mailbox.put(event)
            if mailbox.blocks:
                self._full.add(mailbox)
            elif mailbox.over:
                self.leave(mailbox)
        if isinstance(event, Ended):
            self._boxes.pop(event.topic, None)

    # Reading, and not reading

    @contextmanager
    def expecting(self) -> Generator[None, None, None]:
        self._expecting += 1
        self._room.set()
        try:
            yield
        finally:
            self._expecting -= 1

    def took(self) -> None:
        if self._full:
            self._full = {mailbox for mailbox in self._full if mailbox.blocks}
            if not self._full:
                self._overrun = 0
                self._room.set()

    async def room(self) -> None:
        if not self._must_wait:
            return
        self._machine.read(False, self._loop.time())
        self._pump()
        warning = self._loop.call_later(UNREAD_S, self._warn)
        try:
            while self._must_wait:
                self._room.clear()
                await self._room.wait()
        finally:
            warning.cancel()
            self._machine.read(True, self._loop.time())
            self._pump()

    @property
    def _must_wait(self) -> bool:
        if not self._full or self.state.phase is Phase.CLOSED:
            return False  # when closed, what comes is read to find the end of it
        return not self._expecting or self._overrun >= OVERRUN_BYTES

    def _warn(self) -> None:
        names = [", ".join(sorted(mailbox.topics)[:3]) for mailbox in self._full]
        log.warning(
            "nothing is read from the server: %g s ago a queue became full that nobody takes from"
            " (%s); see the option when_full",
            UNREAD_S,
            "; ".join(names),
        )

    # What the link reports

    def received(self, link: Link, text: str | bytes) -> None:
        if link is self._link:
            if self._full:
                self._overrun += len(text)
            self._machine.received(text, self._loop.time())
            self._pump()

    def ended(self, link: Link, code: int, reason: str) -> None:
        if link is self._link:
            self._machine.ended(code, reason, self._loop.time())
            self._pump()

    def not_opened(self, link: Link, why: str, code: int, retry_s: float | None) -> None:
        if link is self._link:
            self._machine.not_opened(why, self._loop.time(), code, retry_s)
            self._pump()

    def hopeless(self, link: Link, error: Closed) -> None:
        if link is self._link:
            self._machine.fail(error)
            self._pump()

    # The machine

    def _pump_later(self) -> None:
        """What is wanted in one turn of the loop is asked for together."""
        if not self._pump_planned:
            self._pump_planned = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Carries out what the machine wants, and sets its clock."""
        self._pump_planned = False
        if self._pumping:
            return  # a callback of the program, from within; what it wants is carried out below
        self._pumping = True
        try:
            while effects := self._machine.effects(self._loop.time()):
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._pumping = False
        self._set_timer()

    def _set_timer(self) -> None:
        due, timer = self._machine.due(), self._timer
        if timer is not None:
            # One that is early looks again when it fires: most are put off with every message.
            if due is not None and self._timer_at <= due:
                return
            timer.cancel()
            self._timer = None
        if due is not None:
            self._timer, self._timer_at = self._loop.call_at(due, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        self._machine.ticked(self._loop.time())
        self._pump()

    def _carry_out(self, effect: machine.Effect) -> None:
        if isinstance(effect, Message):  # most are
            self._deliver(effect)
        elif isinstance(effect, machine.Send):
            if self._link is not None:
                self._link.send(effect.text)
        elif isinstance(effect, machine.Open):
            self._link = Link(self._target, self)
            connecting = self._connect(self._link, effect.fresh)
            self._attempt = self._tasks.start(connecting, "clarion-client connection")
        elif isinstance(effect, machine.Renew):
            self._tasks.start(self._renew(), "clarion-client renews a token")
        elif isinstance(effect, machine.Drop):
            self._link = None
            if self._attempt is not None:
                self._attempt.cancel()
        elif isinstance(effect, machine.Leave):
            link, self._link = self._link, None
            if link is not None and self._attempt is not None:
                self._tasks.start(self._say_bye(link, self._attempt), "clarion-client leaves")
        elif isinstance(effect, machine.Outcome):
            self._settle(effect.id, effect.result)
        elif isinstance(effect, State):
            self._show(effect)
        else:
            self._deliver(effect)

    async def _connect(self, link: Link, fresh: bool) -> None:
        try:
            token = await self._tokens.get(fresh)
        except Exception as error:
            # The program's own; perhaps its issuer of tokens cannot be reached now.
            log.warning("no token: %s", _told(error))
            self.not_opened(link, f"no token: {_told(error)}", codes.NO_CLOSE_FRAME, None)
            return
        await link.run(token)

    async def _renew(self) -> None:
        try:
            token = await self._tokens.get(fresh=True)
        except Exception as error:
            log.warning("no new token: %s", _told(error))
            self._machine.not_renewed(self._loop.time())
        else:
            assert token is not None, "only tokens of a callback are renewed"
            self._machine.renewed(token)
        self._pump()

    async def _say_bye(self, link: Link, attempt: asyncio.Task[None]) -> None:
        try:
            await link.leave()
        finally:
            attempt.cancel()

    def _settle(self, id: int, result: wire.Answer | ClarionError) -> None:
        answer = self._answers.get(id)
        if answer is None or answer.done():
            return
        if isinstance(result, ClarionError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def _show(self, state: State) -> None:
        self._changed.set()
        if state.phase is Phase.CLOSED:
            self._room.set()
            for mailbox in {box for boxes in self._boxes.values() for box in boxes}:
                mailbox.end(state.error and Closed(*state.error.args))
            if self._given is not None:
                self._given.end(state.error and Closed(*state.error.args))
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception:
                log.exception("on_state failed")
        if state.phase is Phase.BACKING_OFF:
            log.warning("%s: %s; again in %.1f s", self._target.shown, state.why, state.retry_s)

    def _broken(self, error: Exception) -> None:
        """A task of ours failed, which it never should: there is nothing to go on with."""
        log.error("the client has failed", exc_info=error)
        self._machine.fail(Closed(f"the client has failed: {_told(error)}", 1006))
        self._pump()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
