"""The metrics of several workers as one text, read by the parsers of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from clarion_server.exposition import content_type, joined, labelled, written

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0"


def some(count: float, help: str = "Closed.\n# HELP not a head \\ at all") -> list[Metric]:
    """A metric of each kind that there is."""
    closes = CounterMetricFamily("clarion_closes", help, labels=("code",))
    closes.add_metric(("4000",), count)
    closes.add_metric(('a "\n# HELP x\\',), count + 1)
    pauses = HistogramMetricFamily("clarion_pause_seconds", "Pauses.", labels=("generation",))
    pauses.add_metric(("0",), [("0.1", 1), ("+Inf", 2)], sum_value=count)
    return [GaugeMetricFamily("clarion_topics", "Topics.", value=count), closes, pauses]


def text(kind: str, *workers: Sequence[Metric]) -> str:
    """The text of these workers together."""
    texts = [written(labelled(metrics, number), kind) for number, metrics in enumerate(workers)]
    return joined(texts, kind).decode()


def parsed(kind: str, whole: str) -> list[Metric]:
    families: Iterable[Metric]
    if kind == PLAIN:
        families = text_string_to_metric_families(whole)
    else:
        families = openmetrics_families(whole)  # type: ignore[no-untyped-call]
    return list(families)


@pytest.mark.parametrize("kind", [PLAIN, OPEN])
def test_every_family_is_there_once_with_the_samples_of_all(kind: str) -> None:
    families = parsed(kind, text(kind, some(1), some(2), some(3)))
    assert [family.name for family in families] == [
        "clarion_topics",
        "clarion_closes",
        "clarion_pause_seconds",
    ]
    topics, closes, pauses = families
    assert [(sample.labels, sample.value) for sample in topics.samples] == [
        ({"worker": "0"}, 1),
        ({"worker": "1"}, 2),
        ({"worker": "2"}, 3),
    ]
    assert [sample.labels["worker"] for sample in closes.samples] == list("001122")
    assert {sample.name for sample in closes.samples} == {"clarion_closes_total"}
    assert (closes.type, pauses.type) == ("counter", "histogram")
    assert [sample.value for sample in pauses.samples if sample.name.endswith("_sum")] == [1, 2, 3]


@pytest.mark.parametrize("kind", [PLAIN, OPEN])
def test_what_is_in_labels_and_meanings_does_not_break_the_text(kind: str) -> None:
    _topics, closes, _pauses = parsed(kind, text(kind, some(1), some(2)))
    assert closes.documentation == "Closed.\n# HELP not a head \\ at all"
    assert [sample.labels["code"] for sample in closes.samples] == [
        *("4000", 'a "\n# HELP x\\') * 2
    ]


@pytest.mark.parametrize("kind", [PLAIN, OPEN])
def test_one_worker_looks_as_several_do(kind: str) -> None:
    (topics, *_) = parsed(kind, text(kind, some(7)))
    assert [(sample.labels, sample.value) for sample in topics.samples] == [({"worker": "0"}, 7)]


@pytest.mark.parametrize("kind", [PLAIN, OPEN])
def test_a_family_that_only_one_worker_has_is_kept(kind: str) -> None:
    extra = GaugeMetricFamily("clarion_extra", "Extra.", value=5)
    families = parsed(kind, text(kind, some(1), [*some(2), extra]))
    assert [sample.labels for sample in families[-1].samples] == [{"worker": "1"}]


def test_open_metrics_ends_once() -> None:
    assert text(OPEN, some(1), some(2)).count("# EOF\n") == 1
    assert text(OPEN, some(1), some(2)).endswith("\n# EOF\n")
    assert "EOF" not in text(PLAIN, some(1), some(2))


def test_nobody_who_answers_is_an_empty_text() -> None:
    assert text(PLAIN) == ""
    assert text(OPEN) == "# EOF\n"


@pytest.mark.parametrize("accept", ["", "*/*", PLAIN, OPEN, "text/plain;version=1.0.0", "x, y;z"])
def test_the_content_type_stands_for_the_accept_header_that_led_to_it(accept: str) -> None:
    kind = content_type(accept)
    assert content_type(kind) == kind
    assert text(kind, some(1)) == text(accept, some(1))
