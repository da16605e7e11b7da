"""Which publications leave compressed, and how much of the loop's time that may take."""

from __future__ import annotations

import random
import time

import pytest

from clarion_server.compression import (
    BURST_S,
    FULL_BYTES,
    MOST_BYTES,
    SHARE,
    Compressor,
    Rule,
    rules,
)
from clarion_server.counters import Counters
from clarion_server.deflate import compress, decompress
from clarion_server.options import Config, Namespace
from clarion_server.pipeline.options import Compress, Redact

TEXT = b'{"from":"JFK","to":"LAX"},' * 40


class Clock:
    """Stands still, but for what a test adds and what each message costs to compress."""

    def __init__(self, costs: float = 0.0) -> None:
        self.now = 1000.0
        self.costs = costs
        self._compressing = False

    def time(self) -> float:
        return self.now

    def worked(self) -> float:
        """Is asked before and after the work."""
        if self._compressing:
            self.now += self.costs
        self._compressing = not self._compressing
        return self.now


def compressor(
    wanted: dict[str, Rule | None] | None = None, clock: Clock | None = None
) -> tuple[Compressor, Counters]:
    counters = Counters()
    wanted = {"default": None, "orders": Rule(100, 6)} if wanted is None else wanted
    clock = clock or Clock()
    return Compressor(wanted, counters, clock.time, clock.worked), counters


def test_what_a_namespace_wants_is_its_step() -> None:
    step = Compress(min_bytes=300, level=3)
    config = Config(
        namespaces={
            "default": Namespace(),
            "orders": Namespace(pipeline=(Redact(fields=("card",)), step)),
        }
    )
    assert rules(config) == {"default": None, "orders": Rule(300, 3)}


def test_without_any_such_step_there_is_nothing_to_do() -> None:
    namespaces = {"default": Namespace(), "orders": Namespace(pipeline=(Redact(fields=("card",)),))}
    assert rules(Config(namespaces=namespaces)) == {}


def test_a_message_becomes_a_compressed_payload() -> None:
    subject, counters = compressor()
    payload = subject.compress("orders:1", TEXT)
    assert payload == compress(TEXT, 6)
    assert decompress(payload, len(TEXT)) == TEXT
    assert counters.compressed == {"compressed": 1}
    assert counters.compressible_bytes == len(TEXT)
    assert counters.compressed_bytes == len(payload)


@pytest.mark.parametrize(
    ("topic", "is_compressed"),
    [("orders:1", True), ("news", False), ("news:1", False), ("default", False)],
)
def test_it_is_a_matter_of_the_namespace(topic: str, is_compressed: bool) -> None:
    subject, counters = compressor()
    assert (subject.compress(topic, TEXT) is not None) is is_compressed
    assert counters.compressed.total() == is_compressed


def test_namespaces_without_options_are_as_the_default_one() -> None:
    subject, _ = compressor({"default": Rule(100, 6), "orders": None})
    assert subject.compress("any:1", TEXT) is not None
    assert subject.compress("orders:1", TEXT) is None


def test_small_messages_leave_as_they_are() -> None:
    subject, counters = compressor()
    assert subject.compress("orders:1", TEXT[:99]) is None
    assert not counters.compressed
    assert subject.compress("orders:1", TEXT[:100]) is not None


def test_what_does_not_shrink_leaves_as_it_is() -> None:
    subject, counters = compressor()
    assert subject.compress("orders:1", random.Random(7).randbytes(500)) is None
    assert counters.compressed == {"no_smaller": 1}
    assert counters.compressible_bytes == counters.compressed_bytes == 0


def test_large_messages_are_compressed_quickly_and_larger_ones_not() -> None:
    subject, counters = compressor()
    text = TEXT * (MOST_BYTES // len(TEXT) + 1)
    assert subject.compress("orders:1", text[:FULL_BYTES]) == compress(text[:FULL_BYTES], 6)
    for size in (FULL_BYTES + 1, MOST_BYTES):
        assert subject.compress("orders:1", text[:size]) == compress(text[:size], 1)
    assert subject.compress("orders:1", text[: MOST_BYTES + 1]) is None
    assert counters.compressed == {"compressed": 3, "too_large": 1}


def compressed(subject: Compressor, times: int) -> int:
    """How many of `times` messages are compressed, one right after the other."""
    return sum(subject.compress("orders:1", TEXT) is not None for _ in range(times))


@pytest.mark.parametrize("costs", [0.00001, 0.0001, 0.001])
def test_one_turn_of_the_loop_compresses_so_much_and_no_more(costs: float) -> None:
    """What comes beyond leaves as it is."""
    clock = Clock(costs)
    subject, counters = compressor(clock=clock)
    began = clock.now
    count = compressed(subject, 2000)
    # What is used up comes back by its share while time passes.
    assert clock.now - began == pytest.approx(BURST_S / (1 - SHARE), abs=2 * costs)
    assert counters.compressed == {"compressed": count, "no_time": 2000 - count}
    assert counters.compress_seconds == pytest.approx(count * costs)


def test_what_was_used_up_comes_back_with_time_and_is_not_saved_up() -> None:
    clock = Clock(0.0001)
    subject, _ = compressor(clock=clock)
    most = compressed(subject, 500)
    assert compressed(subject, 500) == 0
    clock.now += 0.001
    assert compressed(subject, 500) in range(5, 15)  # half of it, and more
    clock.now += 3600
    assert most - compressed(subject, 500) in (0, 1)


def test_a_message_that_takes_long_is_paid_off_before_the_next_one() -> None:
    clock = Clock(0.020)
    subject, _ = compressor(clock=clock)
    assert compressed(subject, 3) == 1
    clock.now += 0.010
    assert compressed(subject, 3) == 0
    clock.now += 0.003
    assert compressed(subject, 3) == 1


def test_the_worst_message_does_not_hold_the_loop_for_long() -> None:
    """Letters of a small alphabet, for which zlib knows many near repetitions."""
    letters = random.Random(7)
    text = bytes(letters.choice(b"ACGT") for _ in range(MOST_BYTES))
    best = 9.0
    for size in (FULL_BYTES, MOST_BYTES):
        subject, _ = compressor()
        for _ in range(3):
            began = time.thread_time()
            assert subject.compress("orders:1", text[:size]) is not None
            best = min(best, time.thread_time() - began)
        assert best < 0.1  # 6 ms; the bound is for slow machines
