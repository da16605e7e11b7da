"""What a scrape says."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from clarion_fanout.broker import HistoryOptions
from clarion_fanout.hub import Hub, Receiver
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.publication import Draft, Loss, Position, Turn
from clarion_server.codes import Code
from clarion_server.counters import Counters
from clarion_server.garbage import Garbage
from clarion_server.lag import Lag
from clarion_server.metrics import Metrics, of_workers
from clarion_server.process import Process, pss_bytes
from support.fleets import Ship


class Outlet:
    """Nobody is connected."""

    def broadcast(self, receivers: Mapping[int, Receiver], payload: bytes) -> None:
        raise AssertionError

    def scatter(
        self, payloads: Mapping[int, bytes], receivers: Callable[[], Mapping[int, Receiver]]
    ) -> None:
        raise AssertionError


class Worker:
    """The parts of a worker that metrics are taken from, with time by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.counters = Counters()
        self.broker = MemoryBroker(
            history=lambda _topic: HistoryOptions(10, 60), now=lambda: int(time.time() * 1000)
        )
        self.hub = Hub(broker=self.broker, outlet=Outlet(), wake=lambda: None)
        self.lag = Lag(self.clock)
        self.garbage = Garbage(owned=lambda: 0, clock=self.clock)
        self.process = Process(self.clock)
        self.metrics = Metrics(
            counters=self.counters,
            hub=self.hub,
            broker=self.broker,
            lag=self.lag,
            garbage=self.garbage,
            process=self.process,
            clock=self.clock,
            fleet=Ship("a").fleet,
        )

    def clock(self) -> float:
        return self.now

    async def scrape(self) -> dict[str, float]:
        """Each sample as it will be written, name{label="value",...}, and its value."""
        samples: dict[str, float] = {}
        for family in await self.metrics.collected():
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                name = f"{sample.name}{{{labels}}}" if labels else sample.name
                assert name not in samples
                samples[name] = sample.value
        return samples


@pytest.fixture
def worker() -> Worker:
    return Worker()


NAMES = [
    'clarion_connections{transport="websocket"}',
    'clarion_connections{transport="sse"}',
    "clarion_subscriptions",
    "clarion_topics",
    'clarion_publications_total{source="api"}',
    'clarion_publications_total{source="client"}',
    "clarion_dispatched_total",
    "clarion_turns_total",
    "clarion_losses_total",
    "clarion_broken_holds_total",
    "clarion_deliveries_total",
    "clarion_delivered_bytes_total",
    "clarion_written_bytes_total",
    "clarion_received_bytes_total",
    "clarion_messages_received_total",
    'clarion_commands_total{op="subscribe"}',
    'clarion_handshakes_total{result="accepted",transport="websocket"}',
    'clarion_closes_total{code="4001"}',
    'clarion_closes_total{code="1006"}',
    'clarion_errors_total{code="forbidden"}',
    'clarion_control_requests_total{op="disconnect",outcome="partial"}',
    'clarion_resumes_total{outcome="recovered"}',
    'clarion_resumes_total{outcome="lost"}',
    "clarion_replayed_total",
    "clarion_event_loop_lag_seconds_count",
    "clarion_event_loop_lag_seconds_sum",
    "clarion_event_loop_lag_seconds_max",
    'clarion_gc_pause_seconds_count{generation="2"}',
    "clarion_gc_pause_seconds_max",
    "clarion_gc_freezes_total",
    "clarion_gc_deep_collections_total",
    "clarion_broker_streams",
    "clarion_broker_bytes",
    "clarion_broker_evictions_total",
]


async def test_every_series_is_there_from_the_start(worker: Worker) -> None:
    samples = await worker.scrape()
    assert [name for name in NAMES if samples.get(name) != 0.0] == []
    assert any(name.startswith("clarion_build_info{") for name in samples)


async def test_counts_become_samples(worker: Worker) -> None:
    counters = worker.counters
    counters.connections["sse"] = 3
    counters.commands["publish"] = 5
    counters.closes[4001] = 7
    counters.errors[Code.FORBIDDEN] = 9
    counters.handshakes["websocket", "accepted"] = 11
    counters.handshakes["sse", "503"] = 13
    await worker.broker.start(worker.hub)
    await worker.broker.publish([Draft("a", b"1"), Draft("b", b"1")])
    for number in range(3):
        worker.hub.dispatch(Loss("a", Position("e", number), "gone"))
    worker.hub.dispatch(Turn("a", Position("f", 3), "e"))
    samples = await worker.scrape()
    assert samples['clarion_connections{transport="sse"}'] == 3
    assert samples['clarion_commands_total{op="publish"}'] == 5
    assert samples['clarion_closes_total{code="4001"}'] == 7
    assert samples['clarion_errors_total{code="forbidden"}'] == 9
    assert samples['clarion_handshakes_total{result="accepted",transport="websocket"}'] == 11
    assert samples['clarion_handshakes_total{result="503",transport="sse"}'] == 13
    assert samples["clarion_dispatched_total"] == 6
    assert samples["clarion_losses_total"] == 3
    assert samples["clarion_turns_total"] == 1
    assert samples["clarion_broker_streams"] == 2


async def test_a_peer_cannot_invent_label_values(worker: Worker) -> None:
    before = len(await worker.scrape())
    counters = worker.counters
    for number in range(100):
        counters.closes[3000 + number] += 1
        counters.commands[f"op-{number}"] += 1
        counters.errors[f"error-{number}"] += 1
        counters.connections[f"transport-{number}"] += 1
        counters.handshakes[f"transport-{number}", f"result-{number}"] += 1
    samples = await worker.scrape()
    assert len(samples) == before + 5
    assert samples['clarion_closes_total{code="other"}'] == 100
    assert samples['clarion_commands_total{op="other"}'] == 100
    assert samples['clarion_handshakes_total{result="other",transport="other"}'] == 100


async def test_lateness_is_a_histogram_and_a_worst_that_scrapes_do_not_reset(
    worker: Worker,
) -> None:
    worker.lag.note(worker.now, 0.003)
    worker.lag.note(worker.now, 0.3)
    for _ in range(2):
        samples = await worker.scrape()
        assert samples['clarion_event_loop_lag_seconds_bucket{le="0.005"}'] == 1
        assert samples['clarion_event_loop_lag_seconds_bucket{le="+Inf"}'] == 2
        assert samples["clarion_event_loop_lag_seconds_count"] == 2
        assert samples["clarion_event_loop_lag_seconds_sum"] == pytest.approx(0.303)
        assert samples["clarion_event_loop_lag_seconds_max"] == 0.3
    worker.now += 66
    assert (await worker.scrape())["clarion_event_loop_lag_seconds_max"] == 0


def test_of_workers_is_told_who_answered_and_how_often_each_was_replaced() -> None:
    up, restarts = of_workers([True, False], [0, 3])
    assert [sample.value for sample in up.samples] == [1, 0]
    assert [sample.value for sample in restarts.samples] == [0, 3]
    assert [sample.labels for sample in restarts.samples] == [{"worker": "0"}, {"worker": "1"}]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel has none")
async def test_the_process_is_described_and_read_anew_after_some_seconds(worker: Worker) -> None:
    samples = await worker.scrape()
    assert samples["process_resident_memory_bytes"] > 1_000_000
    assert samples["clarion_memory_pss_bytes"] > 1_000_000
    assert 0 < samples["process_open_fds"] < samples["process_max_fds"]
    with socket.socket():
        assert (await worker.scrape())["process_open_fds"] == samples["process_open_fds"]
        worker.now += 6
        assert (await worker.scrape())["process_open_fds"] == samples["process_open_fds"] + 1


def test_a_kernel_that_does_not_say_the_pss_is_no_error(tmp_path: Path) -> None:
    assert pss_bytes(str(tmp_path / "missing")) is None
    strange = tmp_path / "strange"
    strange.write_text("Pss: lots kB\n")
    assert pss_bytes(str(strange)) is None
    strange.write_text("Rss:  2 kB\nPss:  1 kB\n")
    assert pss_bytes(str(strange)) == 1024
