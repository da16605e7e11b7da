"""The extract is a pure function of the data set, and what ships is what it makes of it."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from clarion_server.demo import extract as demo_extract

# Rows of the data set as they are. In order: one of the day before the week, one that left on
# time, one diverted, one that lands after midnight, the same in a time zone where the scheduled
# arrival was still before it, one cancelled, one of the day after the week, to an airport that
# airports.csv lacks.
FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,\
tailnum,origin,dest,air_time,distance,hour,minute,time_hour
2013,2,6,1830,1659,91,2243,2046,NA,9E,3375,N916XJ,JFK,SAT,NA,1587,16,59,2013-02-06T21:00:00Z
2013,2,7,458,500,-2,642,648,-6,US,1117,N165US,EWR,CLT,87,529,5,0,2013-02-07T10:00:00Z
2013,2,7,1813,1805,8,2148,1935,NA,WN,389,N415WN,LGA,MDW,NA,725,18,5,2013-02-07T23:00:00Z
2013,2,7,2057,2100,-3,12,31,-19,DL,2363,N707TW,JFK,LAX,340,2475,21,0,2013-02-08T02:00:00Z
2013,2,7,2054,2040,14,10,2344,26,B6,629,N258JB,JFK,HOU,214,1428,20,40,2013-02-08T01:00:00Z
2013,2,8,NA,1528,NA,NA,1640,NA,EV,3267,N11165,EWR,ORF,NA,284,15,28,2013-02-08T20:00:00Z
2013,2,14,7,2352,15,448,437,11,B6,739,N589JB,JFK,PSE,207,1617,23,52,2013-02-15T04:00:00Z
"""
AIRLINES = """\
carrier,name
B6,JetBlue Airways
DL,Delta Air Lines Inc.
EV,ExpressJet Airlines Inc.
UA,United Air Lines Inc.
US,US Airways Inc.
WN,Southwest Airlines Co.
"""
AIRPORTS = """\
faa,name,lat,lon,alt,tz,dst,tzone
CLT,Charlotte Douglas Intl,35.214,-80.943139,748,-5,A,America/New_York
EWR,Newark Liberty Intl,40.6925,-74.168667,18,-5,A,America/New_York
HOU,William P Hobby,29.645419,-95.278889,46,-6,A,America/Chicago
JFK,John F Kennedy Intl,40.639751,-73.778925,13,-5,A,America/New_York
LAX,Los Angeles Intl,33.942536,-118.408075,126,-8,A,America/Los_Angeles
LGA,La Guardia,40.777245,-73.872608,22,-5,A,America/New_York
MDW,Chicago Midway Intl,41.785972,-87.752417,620,-6,A,America/Chicago
ORF,Norfolk Intl,36.894611,-76.201222,26,-5,A,America/New_York
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    (data / "airlines.csv").write_text(AIRLINES)
    (data / "airports.csv").write_text(AIRPORTS)
    with zipfile.ZipFile(data / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", FLIGHTS)
    return tmp_path


def lines(extract: bytes) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress(extract).splitlines()]


def test_the_same_input_gives_the_same_bytes(dataset: Path) -> None:
    assert demo_extract.build(dataset) == demo_extract.build(dataset / "data")


def test_only_the_week_and_only_names_that_occur(dataset: Path) -> None:
    head, *flights = lines(demo_extract.build(dataset))
    assert len(flights) == 5
    assert head["airlines"].keys() == {"B6", "DL", "EV", "US", "WN"}
    assert "CLT" in head["airports"]
    assert "PSE" not in head["airports"]


def test_a_flight_lands_after_it_left_whatever_the_clocks_say(dataset: Path) -> None:
    _, *flights = lines(demo_extract.build(dataset))
    by_number = {flight[1]: flight for flight in flights}
    assert by_number[2363][4:] == [
        "2013-02-07T21:00:00-05:00",
        -3,
        "2013-02-08T00:31:00-08:00",
        -19,
    ]
    assert by_number[629][4:] == ["2013-02-07T20:40:00-05:00", 14, "2013-02-07T23:44:00-06:00", 26]


def test_what_was_not_recorded_stays_unknown(dataset: Path) -> None:
    _, *flights = lines(demo_extract.build(dataset))
    by_number = {flight[1]: flight for flight in flights}
    assert by_number[389][5::2] == [8, None]  # diverted: it left, but did not arrive there
    assert by_number[3267][5::2] == [None, None]  # cancelled


def test_what_ships_has_these_flights_as_they_are_built(dataset: Path) -> None:
    shipped = lines(demo_extract.OUTPUT.read_bytes())
    head, *flights = lines(demo_extract.build(dataset))
    assert shipped[0]["source"] == head["source"]
    for flight in flights:
        assert flight in shipped


def test_a_missing_argument_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_extract.main([]) == 2
    assert "usage" in capsys.readouterr().err
