"""Flights as they were, and the notifications they would have caused.

Of each flight the records know the schedule, the delay of its departure (none: it was cancelled)
and of its arrival (none: diverted, or it came back). From these follow its events:

    scheduled   two hours before the scheduled departure
    delayed     15 minutes after the scheduled departure, if it is still there. From 15 minutes on
                the Bureau of Transportation Statistics calls a flight late
    departed, arrived   at the actual time
    cancelled   at the scheduled departure: when it was called off is not recorded
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

EXTRACT = Path(__file__).with_name("flights.jsonl.gz")
ANNOUNCED = timedelta(hours=2)
LATE_MIN = 15
EVERYTHING = "flights"
"""The topic that carries every event."""

Kind = Literal["scheduled", "delayed", "departed", "arrived", "cancelled"]


class Flight(NamedTuple):
    """A line of the extract: scheduled local times, delays in minutes, negative when early."""

    airline: str
    number: int
    origin: str
    destination: str
    departs: datetime
    departure_delay: int | None
    arrives: datetime
    arrival_delay: int | None

    @property
    def id(self) -> str:
        """Unique: an airline flies a number once a day from an airport."""
        return f"{self.departs:%Y-%m-%d}/{self.airline}{self.number}/{self.origin}"


class Event(NamedTuple):
    """What happened to `flight` at the time `at`: New York's, for arrivals elsewhere too."""

    at: datetime
    kind: Kind
    flight: Flight

    @property
    def id(self) -> str:
        return f"{self.flight.id}/{self.kind}"

    @property
    def topics(self) -> tuple[str, ...]:
        flight = self.flight
        return (
            EVERYTHING,
            f"airport:{flight.origin}",
            f"airport:{flight.destination}",
            f"airline:{flight.airline}",
        )


class Names(msgspec.Struct, frozen=True):
    """The extract's first line: where it comes from, the days it has, what the codes stand for."""

    source: str
    first: date
    last: date
    airlines: Mapping[str, str]
    airports: Mapping[str, str]


def load() -> tuple[Names, Sequence[Flight]]:
    """The whole extract, in order of scheduled departure."""
    head, _, lines = gzip.decompress(EXTRACT.read_bytes()).partition(b"\n")
    names = msgspec.json.decode(head, type=Names)
    return names, msgspec.json.Decoder(Flight).decode_lines(lines)


def events(flights: Sequence[Flight]) -> Sequence[Event]:
    """All events of `flights` in the order of time."""
    # The sort is stable: what happens in the same minute stays in the order of its flight's life.
    return sorted((e for flight in flights for e in _life(flight)), key=lambda event: event.at)


def _life(flight: Flight) -> Iterator[Event]:
    yield Event(flight.departs - ANNOUNCED, "scheduled", flight)
    if flight.departure_delay is None:
        yield Event(flight.departs, "cancelled", flight)
        return
    if flight.departure_delay > LATE_MIN:
        yield Event(flight.departs + timedelta(minutes=LATE_MIN), "delayed", flight)
    yield Event(_actual(flight.departs, flight.departure_delay), "departed", flight)
    if flight.arrival_delay is not None:
        arrived = _actual(flight.arrives, flight.arrival_delay)
        yield Event(_in_new_york(arrived, flight), "arrived", flight)


def _actual(scheduled: datetime, delay: int) -> datetime:
    return scheduled + timedelta(minutes=delay)


def _in_new_york(time: datetime, flight: Flight) -> datetime:
    # Every flight leaves from there, so its scheduled departure has the offset.
    return time.astimezone(flight.departs.tzinfo)


def data(event: Event, names: Names) -> dict[str, object]:
    """The JSON that is published: what is known of the flight at the time of the event."""
    flight, kind = event.flight, event.kind
    departure: dict[str, object] = {"scheduled": flight.departs.isoformat()}
    arrival: dict[str, object] = {"scheduled": flight.arrives.isoformat()}
    if kind == "delayed":
        departure["delay_min"] = LATE_MIN
    if kind in ("departed", "arrived") and flight.departure_delay is not None:
        departure["actual"] = _actual(flight.departs, flight.departure_delay).isoformat()
        departure["delay_min"] = flight.departure_delay
    if kind == "arrived" and flight.arrival_delay is not None:
        arrival["actual"] = _actual(flight.arrives, flight.arrival_delay).isoformat()
        arrival["delay_min"] = flight.arrival_delay
    return {
        "event": kind,
        "at": event.at.isoformat(),
        "id": flight.id,
        "flight": f"{flight.airline} {flight.number}",
        "airline": {"code": flight.airline, "name": names.airlines[flight.airline]},
        "origin": {"code": flight.origin, "name": names.airports[flight.origin]},
        "destination": {"code": flight.destination, "name": names.airports[flight.destination]},
        "departure": departure,
        "arrival": arrival,
    }
