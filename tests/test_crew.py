"""Which workers should run, as told to a machine by hand."""

from __future__ import annotations

import signal

from clarion_server.crew import (
    DELAYS,
    LOOK_SECONDS,
    MERCY_LOOKS,
    START_LOOKS,
    STEADY_SECONDS,
    STUCK_LOOKS,
    Action,
    Crew,
    Send,
    Start,
)


class World:
    """A crew, and processes that begin at once and beat as long as nothing else is said."""

    def __init__(self, workers: int, *, begin: bool = True) -> None:
        self.now = 1000.0
        self.crew = Crew(workers, ending_s=8)
        self.beats = [0] * workers
        self.pids = [0] * workers
        self.silent: set[int] = set()
        self.starts: list[tuple[float, int]] = []
        self.sent: list[tuple[float, int, signal.Signals]] = []
        self._pid = 100
        if begin:
            for _ in range(3):
                self.turn()
            assert self.crew.complete
            self.starts.clear()

    def turn(self) -> None:
        """Does what the crew asks for; those who were started have begun in the next turn."""
        self.act(self.crew.turn(self.now, self.beats))
        for number, pid in enumerate(self.pids):
            if pid and number not in self.silent:
                self.beats[number] += 1

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self._pid += 1
                self.pids[action.number] = self._pid
                self.beats[action.number] = 0
                self.starts.append((self.now, action.number))
                self.crew.started(action.number, self._pid, self.now)
            else:
                assert action.pid == self.pids[action.number]
                self.sent.append((self.now, action.number, action.signal))

    def end(self, number: int, code: int = -9) -> float | None:
        """A worker ends; returns after how long another one starts."""
        assert self.crew.number_of(self.pids[number]) == number
        self.pids[number] = self.beats[number] = 0
        return self.crew.ended(number, code, self.now)

    def run(self, seconds: float) -> None:
        """Lets time pass; the crew has its turns when it wants them."""
        end = self.now + seconds
        while self.now < end:
            self.turn()
            self.now = min(end, self.now + max(self.crew.wait(self.now), 0.001))
        self.turn()


# Starting


def test_the_first_worker_goes_ahead_and_the_others_follow_when_it_serves() -> None:
    world = World(3, begin=False)
    world.silent.add(0)
    world.run(5)
    assert [number for _, number in world.starts] == [0]
    world.silent.clear()
    world.run(2)
    assert sorted(number for _, number in world.starts) == [0, 1, 2]
    assert world.crew.complete


def test_the_start_is_complete_only_when_all_serve() -> None:
    world = World(2, begin=False)
    world.silent.add(1)
    world.run(3)
    assert not world.crew.complete
    world.silent.clear()
    world.run(2)
    assert world.crew.complete


def test_a_worker_that_ends_before_all_have_served_fails_the_start() -> None:
    world = World(3, begin=False)
    world.silent.add(1)
    world.run(2)
    assert world.end(1, code=4) is None
    assert world.crew.failure == 4
    world.act(world.crew.stop(world.now))
    assert sorted(number for _, number, _ in world.sent) == [0, 2]
    assert world.end(0, code=0) is None
    assert world.crew.failure == 4
    world.run(60)
    assert len(world.starts) == 3


def test_a_signal_at_the_start_is_a_failure_with_exit_code_one() -> None:
    world = World(2, begin=False)
    world.turn()
    world.end(0, code=-11)
    assert world.crew.failure == 1


# Replacing


def test_a_worker_that_was_steady_is_replaced_at_once_and_nobody_else() -> None:
    world = World(3)
    world.run(STEADY_SECONDS)
    assert world.end(1) == 0.0
    world.turn()
    assert world.starts == [(world.now, 1)]
    assert world.crew.running == 3


def test_a_crash_loop_is_tried_less_and_less_often_but_for_ever() -> None:
    world = World(2)
    delays = []
    for _ in range(len(DELAYS) + 2):
        delays.append(world.end(1))
        assert delays[-1] is not None
        world.run(delays[-1])
        assert world.pids[1]
        world.run(0.5)
    assert tuple(delays) == (*DELAYS, DELAYS[-1], DELAYS[-1])
    world.run(STEADY_SECONDS)
    assert world.end(1) == 0.0


def test_a_worker_that_never_serves_is_not_steady_however_long_it_took() -> None:
    world = World(2)
    world.silent.add(1)
    for delay in DELAYS[:3]:
        assert world.end(1) == delay
        world.run(30)


def test_each_number_has_its_own_delays() -> None:
    world = World(2)
    for _ in range(3):
        delay = world.end(1)
        assert delay is not None
        world.run(delay)
    assert world.end(0) == 0.0


def test_it_is_not_restarted_before_its_time_and_waited_for_no_longer() -> None:
    world = World(1)
    world.end(0)
    world.turn()
    delay = world.end(0)
    assert delay == 1.0
    world.now += 0.4
    world.turn()
    assert not world.pids[0]
    assert abs(world.crew.wait(world.now) - 0.6) < 1e-6
    world.now += 0.6
    world.turn()
    assert world.pids[0]


# Hanging


def test_a_worker_that_hangs_is_asked_where_and_then_killed() -> None:
    world = World(2)
    world.run(5)
    world.silent.add(1)
    began = world.now
    world.run(STUCK_LOOKS + MERCY_LOOKS + 2)
    assert [(number, sent) for _, number, sent in world.sent] == [
        (1, signal.SIGABRT),
        (1, signal.SIGKILL),
    ]
    aborted, killed = (when for when, _, _ in world.sent)
    assert STUCK_LOOKS - 1 <= aborted - began <= STUCK_LOOKS + 1
    assert killed - aborted == MERCY_LOOKS * LOOK_SECONDS


def test_a_worker_that_beats_again_in_time_lives() -> None:
    world = World(2)
    world.silent.add(1)
    world.run(STUCK_LOOKS - 3)
    world.silent.clear()
    world.run(2)
    world.silent.add(1)
    world.run(STUCK_LOOKS - 3)
    assert world.sent == []


def test_a_machine_that_stood_still_is_no_reason_to_kill_anybody() -> None:
    world = World(2)
    world.run(5)
    world.now += 3600  # nobody ran, the parent neither
    world.run(3)
    assert world.sent == []


def test_a_worker_that_does_not_begin_is_killed_and_its_successor_has_as_long() -> None:
    world = World(2)
    world.silent.add(1)
    assert world.end(1) == 0.0
    for times in (1, 2):
        world.run(START_LOOKS + MERCY_LOOKS + 2)
        assert [number for _, number, _ in world.sent] == [1, 1] * times
        world.end(1)
        world.run(2)


# Ending


def test_stop_ends_all_and_starts_nobody() -> None:
    world = World(3)
    world.end(1)
    world.act(world.crew.stop(world.now))
    assert [(number, sent) for _, number, sent in world.sent] == [
        (0, signal.SIGTERM),
        (2, signal.SIGTERM),
    ]
    assert world.crew.stop(world.now) == []
    assert world.end(0, code=0) is None
    world.run(5)
    assert world.end(2, code=0) is None
    assert world.crew.running == 0
    assert world.starts == []
    assert world.crew.failure is None


def test_who_does_not_end_in_time_is_killed() -> None:
    world = World(2)
    stopped = world.now
    world.act(world.crew.stop(world.now))
    world.end(0, code=0)
    world.sent.clear()
    world.run(7.9)
    assert world.sent == []
    world.run(0.2)
    assert [(number, sent) for _, number, sent in world.sent] == [(1, signal.SIGKILL)]
    assert world.sent[0][0] - stopped == 8


def test_a_signal_to_all_goes_to_those_who_run() -> None:
    world = World(3)
    world.end(1)
    actions = world.crew.to_all(signal.SIGKILL, "why")
    assert actions == [
        Send(0, world.pids[0], signal.SIGKILL, "why"),
        Send(2, world.pids[2], signal.SIGKILL, "why"),
    ]
    assert world.crew.number_of(99_999) is None
