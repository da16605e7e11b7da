"""The generator's parts: what they count, and that they notice what is wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadtest import wire
from loadtest.play.clarion import ClarionEvents, ClarionWebSocket, told
from loadtest.play.desk import ClarionDesk, Message
from loadtest.play.histogram import LONGEST, Histogram, bucket, upper
from loadtest.play.ledger import Ledger
from loadtest.play.listeners import Listeners
from loadtest.play.plan import PlanError, load, names, parse
from loadtest.play.stamp import FIELDS, LEAST_BYTES, payload
from loadtest.play.stops import longest, worst
from loadtest.play.talk import Client, Refused, Talk

VALUES = st.integers(min_value=0, max_value=LONGEST)


def text_frame(text: bytes) -> bytes:
    head = bytes([0x81, len(text)]) if len(text) < 126 else b"\x81\x7e" + len(text).to_bytes(2)
    return head + text


@given(VALUES)
def test_a_bucket_is_at_most_a_128th_above_its_values(value: int) -> None:
    assert value <= upper(bucket(value)) <= value + value // 128
    assert upper(bucket(value) - 1) < value or value == 0


@given(st.lists(VALUES, min_size=1, max_size=200), st.floats(min_value=0.01, max_value=1))
def test_a_percentile_is_that_of_the_sorted_values(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    true = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    assert true <= histogram.percentile(share) <= true + true // 128


def test_histograms_are_added_without_loss() -> None:
    parts, whole = [Histogram(), Histogram()], Histogram()
    for number in range(1000):
        value = random.Random(number).randrange(10**9)
        parts[number % 2].record(value)
        whole.record(value)
    total = Histogram(parts[0].pairs())
    total.add(parts[1].counts)
    assert total.pairs() == whole.pairs()


@given(st.integers(0, 999_999), st.integers(1, 10**9), st.integers(0, 10**18))
def test_a_stamp_is_found_whatever_stands_around_it(topic: int, number: int, due: int) -> None:
    data = payload(topic, number, due, 100).encode()
    assert len(data) == 100
    found = FIELDS.findall(b'42["message","a",' + data + b"]~~" + data)
    assert [tuple(map(int, one)) for one in found] == [(topic, number, due)] * 2


def test_the_shortest_payload_has_no_padding() -> None:
    assert len(payload(1, 2, 3, LEAST_BYTES)) == LEAST_BYTES


def test_a_ledger_tells_loss_doubles_and_disorder_apart() -> None:
    ledger = Ledger()
    assert ledger.judge(1, 7, number=5, last=2)  # 3 and 4 are missing
    assert ledger.judge(1, 7, number=3, last=5)  # one comes late
    assert not ledger.judge(1, 7, number=3, last=5)  # and again
    assert not ledger.judge(2, 7, number=4, last=5)  # another client had it already
    assert (ledger.lost, ledger.disordered, ledger.duplicates) == (1, 1, 2)


@given(st.integers(min_value=0, max_value=400))
def test_a_websocket_is_cut_behind_its_last_whole_frame(cut: int) -> None:
    frames = [text_frame(payload(1, number, 1, 100).encode()) for number in (1, 2, 3)]
    data = bytearray(b"".join(frames)[: max(cut, 0)])
    whole = len(data) // len(frames[0])
    assert ClarionWebSocket().cut(data, len(data)) == (whole * len(frames[0]), whole, b"")


def test_a_ping_is_answered_and_is_no_publication() -> None:
    data = bytearray(text_frame(b"{}") + b"\x89\x02hi")
    assert ClarionWebSocket().cut(data, len(data)) == (
        len(data),
        1,
        wire.client_frame(wire.PONG, b"hi"),
    )


def test_an_answer_to_the_handshake_is_never_taken_for_a_publication() -> None:
    data = bytearray(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + text_frame(b'{"op":"welcome"}'))
    end, pieces, _ = ClarionWebSocket().cut(data, len(data))
    assert (end, pieces) == (len(data), 2)
    assert [piece[:6] for piece in ClarionWebSocket().pieces(data, end)] == [b"HTTP/1", b'{"op":']


def test_an_event_stream_is_cut_between_events() -> None:
    data = bytearray(b"HTTP/1.1 200 OK\r\n\r\nretry: 1\n\nid: a\ndata: {}\n\nid: b")
    end, _, _ = ClarionEvents().cut(data, len(data))
    assert bytes(data[end:]) == b"id: b"
    assert list(ClarionEvents().pieces(data, end))[1:] == [b"retry: 1", b"id: a\ndata: {}"]


def test_a_client_knows_what_the_server_told_it_about_losses() -> None:
    client = Client(0, ClarionWebSocket(), [3], sampled=True)
    told(client, {"op": "subscribed", "topic": "load3", "epoch": "e", "offset": 5, "id": 1})
    assert client.seen == {3: 5}
    again = {"op": "subscribed", "topic": "load3", "epoch": "f", "offset": 9, "id": 1}
    assert told(client, {**again, "recovered": True}).told == 0
    assert client.seen == {3: 5}  # what is missing follows
    assert told(client, {**again, "recovered": False}).told == 4
    assert client.seen == {3: 9}
    assert told(client, {"op": "lost", "topic": "load3", "epoch": "f", "offset": 11}).told == 2


def test_a_refused_part_of_a_batch_is_what_is_tried_again() -> None:
    messages = [Message(topic, 1, 1) for topic in range(3)]
    desk = ClarionDesk(1, careful=True)
    body = b'{"results":[{"topic":"a"},{"error":{"code":"unavailable"}},{"topic":"c"}]}'
    heard = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert desk.answer(heard[:-1], 3) is None
    answer = desk.answer(heard + b"next", len(messages))
    assert answer == (len(heard), [1], "")
    assert b'"id":"1"' in desk.request(messages, 60)


def test_the_longest_stop_is_the_bound_that_nothing_new_exceeds() -> None:
    def lag(low: int, high: int) -> dict[str, float]:
        return {
            f'lag_bucket{{le="{le}"}}': n for le, n in [("0.1", low), ("1", high), ("+Inf", high)]
        }

    assert longest({}, lag(5, 5), "lag") == 0.1
    assert longest(lag(5, 5), lag(6, 7), "lag") == 1.0
    assert longest(lag(5, 5), lag(5, 5), "lag") == 0.0


def test_the_worst_stop_is_that_of_the_worker_that_stood_still_for_longest() -> None:
    now = {'gc_pause_seconds_max{worker="1"}': 0.25, 'gc_pause_seconds_max{worker="2"}': 0.5}
    assert worst({**now, "event_loop_lag_seconds_max": 3.0}, "gc_pause") == 0.5
    assert worst({}, "gc_pause") == 0.0


def test_why_a_client_is_refused_is_one_reason_for_all_topics() -> None:
    reasons = set()
    for topic in ("load1", "load2"):
        client = Client(0, ClarionWebSocket(), [1], sampled=True)
        greeting = ClarionWebSocket().arrive(client, 1)
        next(greeting)
        greeting.send(wire.SWITCHING)
        greeting.send(wire.WELCOME)
        said = b'{"op":"error","code":"unavailable","topic":"%s","message":"no answer"}'
        with pytest.raises(Refused) as refusal:
            greeting.send(said % topic.encode())
        reasons.add(str(refusal.value))
    assert reasons == {"unavailable: no answer"}


def test_arrivals_that_have_a_pace_begin_one_after_the_other() -> None:
    text = f'title="t"\nabout="a"\nclients=100\narrivals=10\n{PHASE}'
    plan = parse("mine", text)
    talks: dict[int, Talk] = {place: ClarionWebSocket() for place in range(50)}
    listeners = Listeners(plan, 0, range(50), talks, port=1, net=1)
    try:
        listeners.arrive(0.5)
        times = [at for at, _, _ in sorted(listeners.later)]
        assert len(times) == 25
        # Half of the clients are here, and so is half of the pace: five a second.
        assert times[-1] - times[0] == pytest.approx(24 / 5)
        assert listeners.waiting == []
    finally:
        listeners.close()


@pytest.mark.parametrize("name", names())
def test_every_scenario_can_be_read_and_scaled(name: str) -> None:
    plan = load(name)
    small = plan.scaled(0.1, 0.5)
    assert small.seconds() == pytest.approx(plan.seconds() / 2)
    topics = {topic for place in range(small.clients) for topic in small.topics_of(place)}
    assert topics == set(range(small.topic_count))


PHASE = '[[phases]]\nname="a"\nseconds=1\nrate=1\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no \\[\\[phases\\]\\]"),
        ("speed = 1\n" + PHASE, "unknown: speed; there are about"),
        (PHASE + 'event = "explode"', "unknown event 'explode'"),
        ("payload = 10\n" + PHASE, "58 bytes or more"),
        ("sample = 5\ntopics = 3\n" + PHASE, "a sample needs one topic"),
        ("peers = true\nsse = 0.5\n" + PHASE, "peers know topics"),
        ("workers = 2\n" + PHASE, "several workers need a Redis"),
    ],
)
def test_a_scenario_that_makes_no_sense_says_why(text: str, complaint: str) -> None:
    head = 'title = "t"\nabout = "a"\nclients = 5\n' if text else 'title="t"\nabout="a"\nclients=5'
    with pytest.raises(PlanError, match=f"^mine: .*{complaint}"):
        parse("mine", head + text)
