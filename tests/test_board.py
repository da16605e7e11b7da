"""What workers know of each other: who goes first, and how ready the whole server is."""

from __future__ import annotations

import os

import pytest

from clarion_server.board import BACKENDS, CLIENTS, SILENT_SECONDS, TEXT_BYTES, Board, Seat, alone

NOW = 5000.0


def crew(workers: int) -> list[Seat]:
    """Workers that have begun, all of them ready."""
    board = Board(workers)
    seats = [Seat(board, number) for number in range(workers)]
    for seat in seats:
        board.place(seat.number, 100 + seat.number)
    all_beat(seats)
    return seats


def all_beat(seats: list[Seat], now: float = NOW) -> None:
    for seat in seats:
        seat.beat(now, [])


# Who goes first


def test_a_worker_with_more_connections_than_another_lets_it_go_first() -> None:
    one, two, three = (seat.share(CLIENTS) for seat in crew(3))
    assert not one.others_first(0, NOW)
    one.note(5)
    two.note(4)
    three.note(4)
    assert one.others_first(5, NOW)
    assert not two.others_first(4, NOW)
    assert not three.others_first(4, NOW)
    assert three.others_first(5, NOW)


def test_the_doors_are_counted_apart() -> None:
    one, two = crew(2)
    one.share(BACKENDS).note(7)
    two.share(CLIENTS).note(7)
    assert not one.share(CLIENTS).others_first(3, NOW)
    assert not two.share(BACKENDS).others_first(3, NOW)
    assert two.share(CLIENTS).others_first(4, NOW)


def test_asking_tells_the_others_how_many_one_has() -> None:
    one, two = (seat.share(CLIENTS) for seat in crew(2))
    one.others_first(3, NOW)
    assert not two.others_first(3, NOW)
    assert two.others_first(4, NOW)


def test_a_worker_that_is_not_ready_goes_last_but_not_never() -> None:
    one, two = crew(2)
    one.beat(NOW, ["draining"])
    assert one.share(CLIENTS).others_first(0, NOW)
    assert not two.share(CLIENTS).others_first(1000, NOW)
    two.beat(NOW, ["draining"])
    assert not one.share(CLIENTS).others_first(9, NOW)


@pytest.mark.parametrize("gone", ["silent", "dead", "starting"])
def test_nobody_waits_for_a_worker_that_takes_nothing(gone: str) -> None:
    one, two = crew(2)
    assert one.share(CLIENTS).others_first(1000, NOW)
    if gone != "silent":
        one.board.place(two.number, 0 if gone == "dead" else 300)
    late = SILENT_SECONDS if gone == "silent" else 0
    assert not one.share(CLIENTS).others_first(1000, NOW + late)


def test_the_only_worker_waits_for_nobody() -> None:
    seat = alone()
    seat.beat(NOW, ["draining"])
    assert not seat.share(CLIENTS).others_first(1000, NOW)


def test_what_a_worker_left_behind_is_not_taken_for_its_successors() -> None:
    one, two = crew(2)
    two.share(CLIENTS).note(50)
    one.board.place(two.number, 300)
    two.beat(NOW, [])
    assert one.share(CLIENTS).others_first(1, NOW)


# Readiness


def test_a_single_worker_speaks_for_itself() -> None:
    seat = alone()
    assert seat.readiness(NOW, []) == (True, [])
    assert seat.readiness(NOW, ["draining", "late"]) == (False, ["draining", "late"])


def test_reasons_name_the_worker_and_most_must_be_ready() -> None:
    one, two, three = crew(3)
    assert one.readiness(NOW, []) == (True, [])
    two.beat(NOW, ["draining", "no shard"])
    told = ["worker 1: draining; no shard"]
    assert one.readiness(NOW, []) == (True, told)
    assert three.readiness(NOW, ["late"]) == (False, [*told, "worker 2: late"])


def test_half_of_the_workers_are_not_most_of_them() -> None:
    one, two = crew(2)
    two.beat(NOW, ["late"])
    assert one.readiness(NOW, []) == (False, ["worker 1: late"])


def test_a_worker_without_a_beat_is_told_after_a_second() -> None:
    one, two, three = crew(3)
    three.beat(NOW + 3, [])
    assert one.readiness(NOW + 0.9, []).reasons == []
    readiness = one.readiness(NOW + 3, [])
    assert readiness == (True, ["worker 1: has given no sign of life for 3 s"])
    two.beat(NOW + 3, [])
    assert one.readiness(NOW + 3, []).reasons == []


def test_a_worker_that_is_not_there_or_has_just_begun_is_told() -> None:
    one, _two, _three = crew(3)
    one.board.place(1, 0)
    one.board.place(2, 300)
    reasons = ["worker 1: is not running", "worker 2: is starting"]
    assert one.readiness(NOW, []) == (False, reasons)


def test_a_long_reason_is_cut_and_a_shorter_one_leaves_nothing_of_it() -> None:
    one, two, _three = crew(3)
    two.beat(NOW, ["ä" * TEXT_BYTES])
    (reason,) = one.readiness(NOW, []).reasons
    assert set(reason.removeprefix("worker 1: ")) == {"ä"}
    assert len(reason) < TEXT_BYTES
    two.beat(NOW, ["short"])
    assert one.readiness(NOW, []).reasons == ["worker 1: short"]


# The memory


def test_what_a_forked_process_writes_is_read_here() -> None:
    one, two, three = crew(3)
    pid = os.fork()
    if not pid:
        three.beat(NOW + 50, ["written elsewhere"])
        two.share(CLIENTS).note(12)
        two.beat(NOW + 50, [])
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert one.readiness(NOW + 50, []) == (True, ["worker 2: written elsewhere"])
    share = one.share(CLIENTS)
    assert [share.others_first(12, NOW + 50), share.others_first(13, NOW + 50)] == [False, True]


def test_restarts_are_counted_over_all_who_sit_there() -> None:
    board = Board(2)
    board.replaced(1)
    board.place(1, 300)
    board.replaced(1)
    assert [board.restarts(0), board.restarts(1)] == [0, 2]


def test_each_beat_is_another_number() -> None:
    board = Board(1)
    board.place(0, 300)
    assert board.last_beat(0) == 0
    seat = Seat(board, 0)
    seat.beat(NOW, [])
    first = board.last_beat(0)
    seat.beat(NOW + 0.1, [])
    assert 0 < first < board.last_beat(0)
    board.place(0, 301)
    assert board.last_beat(0) == 0
