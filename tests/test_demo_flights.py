"""The shipped flights: a real week, and the events that follow from it."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from itertools import pairwise

import orjson
import pytest

from clarion_fanout import payload
from clarion_fanout.topics import is_topic
from clarion_server.demo import flights as demo_flights
from clarion_server.demo.flights import Event, Flight

NAMES, FLIGHTS = demo_flights.load()
EVENTS = demo_flights.events(FLIGHTS)


def life(id: str) -> list[Event]:
    return [event for event in EVENTS if event.flight.id == id]


def times(event: Event) -> tuple[object, object]:
    data = demo_flights.data(event, NAMES)
    return data["departure"], data["arrival"]


def test_the_extract_is_small_and_whole() -> None:
    assert demo_flights.EXTRACT.stat().st_size < 300_000
    assert len(FLIGHTS) == 6115
    assert len({flight.id for flight in FLIGHTS}) == len(FLIGHTS)
    assert {flight.origin for flight in FLIGHTS} == {"EWR", "JFK", "LGA"}
    assert {flight.departs.date() for flight in FLIGHTS} == {
        NAMES.first + timedelta(days=day) for day in range(7)
    }


def test_the_blizzards_cancellations_are_those_of_the_records() -> None:
    cancelled = Counter(e.flight.departs.date() for e in EVENTS if e.kind == "cancelled")
    assert cancelled[date(2013, 2, 7)] == 4
    assert cancelled[date(2013, 2, 8)] == 472
    assert cancelled[date(2013, 2, 9)] == 393


def test_events_are_in_the_order_of_time_and_named_once() -> None:
    assert all(one.at <= other.at for one, other in pairwise(EVENTS))
    assert len({event.id for event in EVENTS}) == len(EVENTS)


def test_every_event_can_be_published() -> None:
    for event in EVENTS:
        payload.check(orjson.dumps(demo_flights.data(event, NAMES)), 65536)
        assert all(is_topic(topic) for topic in event.topics)
        assert len(set(event.topics)) == 4


def test_a_late_flights_life() -> None:
    scheduled, delayed, departed, arrived = life("2013-02-11/AA2041/JFK")
    assert [event.kind for event in (scheduled, delayed, departed, arrived)] == [
        "scheduled",
        "delayed",
        "departed",
        "arrived",
    ]
    flight = scheduled.flight
    assert flight.departure_delay is not None
    assert flight.departure_delay > demo_flights.LATE_MIN
    assert departed.at - flight.departs == timedelta(minutes=flight.departure_delay)
    assert delayed.at - flight.departs == timedelta(minutes=15)


def test_an_arrival_is_told_in_the_destinations_time_and_happens_in_new_yorks() -> None:
    arrived = life("2013-02-08/AA337/LGA")[-1]
    assert arrived.at.isoformat() == "2013-02-08T17:45:00-05:00"
    assert times(arrived) == (
        {
            "scheduled": "2013-02-08T14:55:00-05:00",
            "actual": "2013-02-08T15:09:00-05:00",
            "delay_min": 14,
        },
        {
            "scheduled": "2013-02-08T16:45:00-06:00",
            "actual": "2013-02-08T16:45:00-06:00",
            "delay_min": 0,
        },
    )


def test_nothing_is_told_before_it_is_known() -> None:
    scheduled = life("2013-02-08/AA337/LGA")[0]
    assert times(scheduled) == (
        {"scheduled": "2013-02-08T14:55:00-05:00"},
        {"scheduled": "2013-02-08T16:45:00-06:00"},
    )


NOON = datetime.fromisoformat("2013-02-07T12:00:00-05:00")
AFTERNOON = datetime.fromisoformat("2013-02-07T15:00:00-05:00")


@pytest.mark.parametrize(
    ("departure", "arrival", "kinds"),
    [
        (None, None, ["scheduled", "cancelled"]),
        (-4, -9, ["scheduled", "departed", "arrived"]),
        (15, 3, ["scheduled", "departed", "arrived"]),
        (16, 3, ["scheduled", "delayed", "departed", "arrived"]),
        (5, None, ["scheduled", "departed"]),
    ],
)
def test_what_happens_to_a_flight(
    departure: int | None, arrival: int | None, kinds: list[str]
) -> None:
    flight = Flight("UA", 1, "EWR", "ORD", NOON, departure, AFTERNOON, arrival)
    assert [event.kind for event in demo_flights.events([flight])] == kinds
