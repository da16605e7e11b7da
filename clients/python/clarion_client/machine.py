"""A client's connection to a server, over all its losses: a machine without I/O.

    CONNECTING    a socket is being opened, or is open and `welcome` has not come
    CONNECTED     welcome
    BACKING_OFF   the last connection, or the attempt, has ended; the next waits
    CLOSED        for good: the program said so, or the server in a way that forbids to come back

In goes what happens (`received`, `ended`, `not_opened`, `ticked`, ...) and what the program wants
(`hold`, `release`, `ask`, `stop`), with the time as a number. Out come effects, which the edge
carries out in order after each call: open a socket, send a text, hand on an event. `due` says when
`ticked` is to be called.

What the machine sees to:

- **Coming back.** `retry_ms` of a `goodbye` and `Retry-After` of a refusal are obeyed; otherwise
  the pauses are random and grow (`backoff.py`). The code decides whether to come back (`codes.py`).
- **Topics.** After `welcome` all are asked for, each from its own position, in as few commands as
  their size allows (`interests.py`, `place.py`). A loss is an event in its topic's order.
- **A dead link** is one that stays silent after a ping (`pulse.py`).
- **Tokens.** Before one expires the edge is asked for another (`Renew`). After 4002 the next
  attempt begins with a new one (`Open.fresh`).
- **Commands** wait for a connection, and for their answer (`calls.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from clarion_client import codes, wire
from clarion_client.backoff import Backoff
from clarion_client.calls import Calls
from clarion_client.errors import ClarionError, Closed, Refused, Unanswered
from clarion_client.events import Event, Phase, State
from clarion_client.interests import Interests
from clarion_client.pulse import Beat, Pulse

log = logging.getLogger("clarion_client")

GOODBYE_S = 5.0
"""From `goodbye` to the close frame: the server's own patience for a close."""

RENEW_EARLY, RENEW_EARLY_S = 0.2, 60.0
"""A token is renewed when a fifth of its time is left, or a minute if that is less: time for some
tries if the first fails."""

RENEW_AGAIN_S = 1.0
"""The shortest time between two renewals, whatever the server says about expiry."""

ROUNDED_S = 1.0
"""`Retry-After` is in whole seconds, and everybody else was told the same: who comes back is spread
over one more."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; see the options of `Client`. Raises `ValueError` for times that are none."""

    connect_s: float = 15.0
    ping_s: float = 20.0
    pong_s: float = 10.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    give_up_s: float | None = None

    def __post_init__(self) -> None:
        # Without pauses a client whose server is gone would do nothing but try. NaN is none either.
        times = (self.connect_s, self.ping_s, self.pong_s, self.first_pause_s, self.longest_pause_s)
        if not all(seconds > 0 for seconds in times):
            raise ValueError(
                "connect_s, ping_s, pong_s and both of pause_s are more than 0 seconds"
            )


# Effects


@dataclass(frozen=True, slots=True)
class Open:
    """Get a token (a new one if `fresh`) and open a socket."""

    fresh: bool


@dataclass(frozen=True, slots=True)
class Send:
    text: str


@dataclass(frozen=True, slots=True)
class Renew:
    """Get a new token; then call `renewed` or `not_renewed`."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Throw away the socket or the attempt. Nothing that comes from it counts any more."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Close the socket properly. Nothing that comes from it counts any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the command with this id."""

    id: int
    result: wire.Answer | ClarionError


Effect: TypeAlias = Open | Send | Renew | Drop | Leave | Outcome | State | Event
"""A `State` is to be shown to the program, an event to the subscriptions of its topic."""


class Machine:
    """See the module's text.

    uniform: like `random.uniform`. renewable: whether there is a way to new tokens. max_bytes: the
    longest message that the server takes. loads: reads what it sends.
    """

    def __init__(
        self,
        timing: Timing,
        uniform: Callable[[float, float], float],
        *,
        renewable: bool = False,
        max_bytes: int = 65_536,
        loads: wire.Loads = wire.loads,
    ) -> None:
        self.state = State(Phase.CONNECTING)
        self.interests = Interests(self._next_id, max_bytes)
        self._timing = timing
        self._uniform = uniform
        self._renewable = renewable
        self._max_bytes = max_bytes
        self._loads = loads
        self._backoff = Backoff(timing.first_pause_s, timing.longest_pause_s, uniform)
        self._calls = Calls()
        self._effects: list[Effect] = []
        self._id = 0
        self._fresh = False  # whether the next attempt needs a new token
        self._until = 0.0  # CONNECTING: its deadline; BACKING_OFF: the next attempt
        self._without_since = 0.0  # when there last was a connection
        self._reading = True
        # Of the present connection:
        self._welcomed_at = 0.0
        self._pulse = Pulse(timing.ping_s, timing.pong_s, 0.0)
        self._goodbye: wire.Goodbye | None = None
        self._goodbye_until: float | None = None
        self._renew_at: float | None = None
        self._renewal: int | None = None

    @property
    def phase(self) -> Phase:
        return self.state.phase

    def due(self) -> float | None:
        """When `ticked` is to be called; None: not before something else happens."""
        if self.phase is Phase.CLOSED:
            return None
        if self._goodbye_until is not None:
            return self._goodbye_until
        if self.phase is not Phase.CONNECTED:
            return self._until
        times: list[float | None] = [self._pulse.due, self._renew_at]
        if self._reading:
            times.append(self.interests.due())
        return min(time for time in times if time is not None)

    def effects(self, now: float) -> list[Effect]:
        """What is to be done, in order; handed out once."""
        if self.interests.waiting and self.phase is Phase.CONNECTED:
            self._send(*self.interests.commands(now))
        effects, self._effects = self._effects, []
        return effects

    # What the program wants

    def start(self, now: float) -> None:
        """Begins with the first attempt."""
        self._without_since = now
        self._open(now)

    def release(self, topic: str) -> None:
        """The topic is not wanted any more. (It is wanted by `interests.hold`.)"""
        command = self.interests.release(topic)
        if command is not None:
            self._send(command)

    def ask(self, encode: Callable[[int], str], *, reads: bool) -> int:
        """A command with an answer of its own. Returns its id, which the `Outcome` carries.

        encode: makes the text. reads: the command changes nothing, so it may be sent twice. Raises
        `ValueError` for a command that is too long: it would end the connection for good.
        """
        id = self._next_id()
        text = encode(id)
        if len(text) > self._max_bytes or len(text.encode()) > self._max_bytes:
            raise ValueError(f"a command of more than max_command_bytes={self._max_bytes}")
        if self.phase is Phase.CLOSED:
            self._effects.append(Outcome(id, self._end_of_it()))
            return id
        self._calls.add(id, text, reads)
        if self.phase is Phase.CONNECTED:
            self._send(*self._calls.to_send())
        return id

    def forget(self, id: int) -> bool:
        """Nobody waits for this answer any more. Returns whether the command was sent."""
        return self._calls.end(id)

    def read(self, reading: bool, now: float) -> None:
        """Whether the edge reads what comes: it does not while the program is behind."""
        self._reading = reading
        self._pulse.read(reading, now)
        self.interests.progress(now)

    def stop(self) -> None:
        """The program has had enough."""
        self._close("closed by the program", None)

    def fail(self, error: Closed) -> None:
        """It cannot go on, for a reason that the edge knows."""
        self._close(str(error), error)

    # What happens

    def not_opened(
        self,
        why: str,
        now: float,
        code: int = codes.NO_CLOSE_FRAME,
        retry_s: float | None = None,
    ) -> None:
        """The attempt failed. code: the status of a refusal, retry_s: its `Retry-After`."""
        if self.phase is Phase.CONNECTING:
            self._back_off(why, code, now, retry_s, ROUNDED_S)

    def received(self, text: str | bytes, now: float) -> None:
        """A message of the server."""
        if self.phase not in (Phase.CONNECTING, Phase.CONNECTED):
            return
        self._pulse.heard(now)
        try:
            if isinstance(text, bytes):
                raise wire.NotClarion("a binary message")
            message = wire.decode(text, self._loads)
        except wire.NotClarion as problem:
            # Something between us and the server, perhaps. The next connection will tell; and
            # positions see to it that nothing is lost by that.
            why = f"the server sent what is no clarion.v1: {problem}"
            self._drop(why, codes.PROTOCOL_ERROR, now)
            return
        if isinstance(message, wire.Publication):
            self._effects += self.interests.message(message)
        elif message is not None:
            self._handle(message, now)

    def ended(self, code: int, reason: str, now: float) -> None:
        """The socket was closed by the server: the code of its close frame, 1006 without one."""
        if self.phase not in (Phase.CONNECTING, Phase.CONNECTED):
            return
        retry_s: float | None = None
        if self._goodbye is not None:
            # Said before the close frame, so that losing that loses nothing.
            code, reason = self._goodbye.code, self._goodbye.reason
            retry_s = _seconds(self._goodbye.retry_ms)
        why = f"{reason or 'the connection was lost'} ({code})"
        if not codes.come_back(code):
            self._close(why, Closed(f"the server closed the connection: {why}", code))
        elif code == codes.TOKEN_EXPIRED and not self._renewable:
            text = "the token has expired; a callback instead of a string could renew it"
            self._close(why, Closed(text, code))
        else:
            self._fresh |= code == codes.TOKEN_EXPIRED
            self._back_off(why, code, now, retry_s)

    def renewed(self, token: str) -> None:
        """The new token that `Renew` asked for."""
        if self.phase is Phase.CONNECTED and self._renewal is None:
            self._renewal = self._next_id()
            self._send(wire.encode("refresh", self._renewal, token=token))

    def not_renewed(self, now: float) -> None:
        """There was no new token to be had. Tried again in a moment."""
        if self.phase is Phase.CONNECTED:
            self._renew_at = now + RENEW_AGAIN_S + self._uniform(0.0, RENEW_AGAIN_S)

    def ticked(self, now: float) -> None:
        """Time has passed."""
        if self._goodbye_until is not None:
            if now >= self._goodbye_until:
                self._effects.append(Drop())
                self.ended(codes.NO_CLOSE_FRAME, "", now)
        elif self.phase is Phase.CONNECTED:
            self._ticked_connected(now)
        elif self.phase is Phase.CLOSED or now < self._until:
            return
        elif self.phase is Phase.CONNECTING:
            self._drop("no welcome within the time to connect", codes.NO_CLOSE_FRAME, now)
        else:
            self._open(now)

    def _ticked_connected(self, now: float) -> None:
        beat = self._pulse.tick(now)
        if beat is Beat.DEAD:
            self._drop("no answer to a ping", codes.NO_PONG, now)
            return
        if beat is Beat.PING:
            self._send(wire.encode("ping"))
        if self._reading and not self.interests.tick(now):
            self._drop("no answer to a subscription", codes.NO_CLOSE_FRAME, now)
            return
        if self._renew_at is not None and now >= self._renew_at:
            self._renew_at = None
            self._effects.append(Renew())

    # What the server says

    def _handle(self, message: wire.Received, now: float) -> None:
        interests = self.interests
        if isinstance(message, wire.Welcome):
            self._welcome(message, now)
        elif isinstance(message, wire.Goodbye):
            self._goodbye = message
            self._goodbye_until = now + GOODBYE_S
        elif isinstance(message, wire.Subscribed):
            self._effects += interests.subscribed(message, now)
        elif isinstance(message, wire.Lost):
            self._effects += interests.lost(message)
        elif isinstance(message, wire.Movement):
            self._effects += interests.moved(message)
        elif isinstance(message, wire.Unsubscribed):
            self._effects += interests.unsubscribed(message)
        elif isinstance(message, wire.Failure):
            self._failure(message, now)
        elif isinstance(message, wire.Refreshed) and message.id == self._renewal:
            self._renewal = None
            self._expires(message.expires_ms, now)
        elif not isinstance(message, wire.Publication):
            self._answer(message)

    def _welcome(self, welcome: wire.Welcome, now: float) -> None:
        if self.phase is not Phase.CONNECTING:
            return
        self._change(State(Phase.CONNECTED, client=welcome.client, user=welcome.user))
        self._welcomed_at = now
        self._expires(welcome.expires_ms, now)
        self.interests.go_online()
        self._send(*self.interests.commands(now), *self._calls.to_send())

    def _expires(self, expires_ms: int | None, now: float) -> None:
        self._renew_at = None
        if expires_ms is not None and self._renewable:
            lasts = expires_ms / 1000
            early = min(RENEW_EARLY * lasts, RENEW_EARLY_S)
            self._renew_at = now + max(lasts - early, RENEW_AGAIN_S)

    def _failure(self, failure: wire.Failure, now: float) -> None:
        refused = Refused(
            failure.message, failure.code, failure.topic or "", _seconds(failure.retry_ms)
        )
        if failure.id is not None and failure.id == self._renewal:
            # The old token counts until it expires; then 4002 brings a new one, or says why not.
            self._renewal = None
            log.warning("the server did not take a renewed token: %s", refused)
            self.not_renewed(now)
            return
        if isinstance(failure.id, int) and failure.id in self._calls:
            self._calls.end(failure.id)
            self._effects.append(Outcome(failure.id, refused))
            return
        events, commands = self.interests.failed(failure, now)
        self._effects += events
        self._send(*commands)
        if failure.id is None:
            log.warning("an error that answers nothing: %s", refused)

    def _answer(self, answer: wire.Answer) -> None:
        if isinstance(answer.id, int) and answer.id in self._calls:
            self._calls.end(answer.id)
            self._effects.append(Outcome(answer.id, answer))

    # Phases

    def _open(self, now: float) -> None:
        self._until = now + self._timing.connect_s
        self._pulse = Pulse(self._timing.ping_s, self._timing.pong_s, now)
        self._pulse.read(self._reading, now)
        self._renew_at = self._renewal = None
        self._change(State(Phase.CONNECTING))
        self._effects.append(Open(self._fresh))
        self._fresh = False

    def _drop(self, why: str, code: int, now: float) -> None:
        self._effects.append(Drop())
        self._back_off(why, code, now)

    def _back_off(
        self,
        why: str,
        code: int,
        now: float,
        retry_s: float | None = None,
        spread_s: float = 0.0,
    ) -> None:
        if self.phase is Phase.CONNECTED:
            self._backoff.lived(now - self._welcomed_at)
            self._without_since = now
        self._go_offline()
        self._goodbye = self._goodbye_until = None
        pause = self._backoff.pause(retry_s, spread_s)
        give_up_s = self._timing.give_up_s
        if give_up_s is not None:
            left = self._without_since + give_up_s - now
            if left <= 0 or (retry_s is not None and pause > left):
                error = Closed(f"no connection within {give_up_s:g} s: {why}", codes.NO_CLOSE_FRAME)
                self._close(why, error)
                return
            pause = min(pause, left)
        self._until = now + pause
        self._change(State(Phase.BACKING_OFF, why=why, code=code, retry_s=pause))

    def _close(self, why: str, error: Closed | None) -> None:
        if self.phase is Phase.CLOSED:
            return
        if self.phase is not Phase.BACKING_OFF:
            self._effects.append(Leave())
        self._goodbye = self._goodbye_until = None
        self._go_offline()
        self._change(State(Phase.CLOSED, why=why, error=error))
        self._effects += [Outcome(id, self._end_of_it()) for id in self._calls.end_all()]

    def _go_offline(self) -> None:
        self.interests.go_offline()
        for id in self._calls.cut():
            error = Unanswered("the connection was lost before the answer came")
            self._effects.append(Outcome(id, error))

    def _end_of_it(self) -> Closed:
        error = self.state.error
        return Closed("the client is closed") if error is None else Closed(str(error), error.code)

    def _change(self, state: State) -> None:
        self.state = state
        self._effects.append(state)

    def _send(self, *texts: str) -> None:
        self._effects += [Send(text) for text in texts]

    def _next_id(self) -> int:
        self._id += 1
        return self._id


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
