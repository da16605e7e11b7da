"""What all tests have in common: the event loop that the server ships with, and patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop
from hypothesis import settings

# A machine that is busy with other things is no failure of an example.
settings.register_profile("clarion", deadline=None)
settings.load_profile("clarion")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}
