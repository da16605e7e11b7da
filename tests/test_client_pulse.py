"""When silence becomes a ping, and when a ping without an answer becomes a dead link."""

from __future__ import annotations

from clarion_client.pulse import LATE_S, Beat, Pulse


def pulse() -> Pulse:
    return Pulse(ping_s=20, pong_s=10, now=100)


def test_after_silence_a_ping_is_due_and_then_death() -> None:
    heart = pulse()
    assert heart.due == 120
    assert heart.tick(119.9) is Beat.NOTHING
    assert heart.tick(120) is Beat.PING
    assert heart.due == 130
    assert heart.tick(129.9) is Beat.NOTHING
    assert heart.tick(130) is Beat.DEAD


def test_whatever_comes_is_a_sign_of_life() -> None:
    heart = pulse()
    heart.heard(119)
    assert heart.tick(120) is Beat.NOTHING
    assert heart.tick(139) is Beat.PING
    heart.heard(148)
    assert heart.due == 168


def test_a_process_that_did_not_run_asks_again_before_it_gives_up() -> None:
    """A laptop that slept, a loop that was blocked: the answer may lie in the socket, unread."""
    heart = pulse()
    assert heart.tick(120) is Beat.PING
    assert heart.tick(130 + LATE_S + 3600) is Beat.PING
    assert heart.tick(heart.due) is Beat.DEAD


def test_while_nothing_is_read_silence_proves_nothing_but_pings_go_on() -> None:
    heart = pulse()
    heart.read(False, 100)
    assert [heart.tick(now) for now in (120, 130, 140, 160)] == [
        Beat.PING,
        Beat.NOTHING,
        Beat.PING,
        Beat.PING,
    ]
    heart.read(True, 161)
    assert heart.due == 181
