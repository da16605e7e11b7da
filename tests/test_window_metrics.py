"""What a scrape says of clients that are behind."""

from __future__ import annotations

from clarion_fanout.publication import Publication
from clarion_server.counters import Counters
from clarion_server.forms import WEBSOCKET
from clarion_server.window import Limit, Rule, Window
from clarion_server.window_metrics import window_metrics
from support.edges import World, but
from support.server import BARE, OPEN


def samples(counters: Counters) -> dict[str, float]:
    """Each sample as it will be written, name{label="value",...}, and its value."""
    found: dict[str, float] = {}
    for family in window_metrics(counters):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_what_waits_is_summed_over_the_windows_there_are() -> None:
    counters = Counters()
    for size in (10, 20):
        window = Window(0, Limit(1000, 1000, 10, 1), counters.dropped)
        window.push(b"x" * size)
        window.push(b"uncounted", counts=False)
        counters.windows.add(window)
    found = samples(counters)
    assert found["clarion_clients_behind"] == 2
    assert found["clarion_window_bytes"] == 30
    assert found["clarion_window_messages"] == 2
    counters.windows.clear()
    assert samples(counters)["clarion_window_bytes"] == 0


def test_drops_are_counted_by_policy_and_namespace() -> None:
    counters = Counters()
    window = Window(0, Limit(1000, 1000, 10, 1), counters.dropped)
    for number in range(4):
        publication = Publication("n:a", b"%d" % number, 0)
        frame = WEBSOCKET.encode(publication)
        window.deliver(Rule("n", "latest"), publication, frame, 0)
    assert samples(counters)['clarion_dropped_messages_total{namespace="n",policy="latest"}'] == 3


def test_how_full_and_how_long_are_histograms() -> None:
    counters = Counters()
    counters.window_fill.add(0.3)
    counters.behind.add(2.0)
    found = samples(counters)
    assert found['clarion_window_fill_ratio_bucket{le="0.25"}'] == 0
    assert found['clarion_window_fill_ratio_bucket{le="0.5"}'] == 1
    assert found['clarion_behind_seconds_bucket{le="3.0"}'] == 1
    assert found["clarion_behind_seconds_sum"] == 2.0


def test_every_series_is_there_from_the_start_and_none_is_added() -> None:
    world = World(but(namespaces={"default": OPEN, "bare": BARE}))
    before = samples(world.counters)
    assert before['clarion_slow_consumers_total{bound="bytes",namespace="bare"}'] == 0
    assert before['clarion_slow_consumers_total{bound="seconds",namespace=""}'] == 0
    assert before['clarion_dropped_messages_total{namespace="default",policy="close"}'] == 0
    for topic in ("bare:a", "default:a", "a", "anything:a"):
        rule = world.edge.rule(topic)
        world.counters.too_slow["bytes", rule.namespace] += 1
        world.counters.dropped[rule.policy, rule.namespace] += 1
    assert samples(world.counters).keys() == before.keys()
