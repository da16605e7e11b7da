"""What a scrape says of compression."""

from __future__ import annotations

import random

from clarion_server.compression import Compressor, Rule
from clarion_server.compression_metrics import compression_metrics
from clarion_server.counters import Counters

TEXT = b'{"from":"JFK","to":"LAX"},' * 40


def samples(counters: Counters) -> dict[str, float]:
    """Each sample as it will be written, name{label="value",...}, and its value."""
    found: dict[str, float] = {}
    for family in compression_metrics(counters):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_everything_is_there_from_the_start() -> None:
    """A rate over a series that begins with its first event would miss that event."""
    assert samples(Counters()) == {
        "clarion_compressed_connections": 0,
        'clarion_compressed_publications_total{outcome="compressed"}': 0,
        'clarion_compressed_publications_total{outcome="no_smaller"}': 0,
        'clarion_compressed_publications_total{outcome="no_time"}': 0,
        'clarion_compressed_publications_total{outcome="too_large"}': 0,
        "clarion_compression_input_bytes_total": 0,
        "clarion_compression_output_bytes_total": 0,
        "clarion_compression_seconds_total": 0,
    }


def test_outcomes_bytes_and_time_are_counted() -> None:
    counters = Counters()
    subject = Compressor({"default": Rule(1, 6)}, counters)
    payload = subject.compress("a", TEXT)
    assert payload is not None
    subject.compress("a", random.Random(7).randbytes(500))
    subject.compress("a", TEXT * 1000)
    found = samples(counters)
    assert found['clarion_compressed_publications_total{outcome="compressed"}'] == 1
    assert found['clarion_compressed_publications_total{outcome="no_smaller"}'] == 1
    assert found['clarion_compressed_publications_total{outcome="too_large"}'] == 1
    assert found["clarion_compression_input_bytes_total"] == len(TEXT)
    assert found["clarion_compression_output_bytes_total"] == len(payload)
    assert 0 < found["clarion_compression_seconds_total"] < 1
