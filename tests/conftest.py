"""What all tests have in common: the event loop that the server ships with, patience, and examples
of properties that are the same each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.internal.constants_ast import Constants

# A machine that is busy with other things is no failure of an example.
PATIENT = settings(
    settings.get_profile("default"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
# What is drawn follows from the test's source: the same each time, whatever changes elsewhere.
settings.register_profile("steady", PATIENT, derandomize=True)
# Other examples each time, and many: see support/examples.py.
settings.register_profile("explore", PATIENT, max_examples=20 * PATIENT.max_examples)
settings.load_profile("steady")


class Steady(HypothesisProvider):
    """Leaves out the constants of the product's modules, as they change with every module that is
    loaded or edited, and with them all that is drawn."""

    _local_constants = Constants()


def pytest_configure(config: pytest.Config) -> None:
    if settings().derandomize:
        AVAILABLE_PROVIDERS["hypothesis"] = Steady


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}
