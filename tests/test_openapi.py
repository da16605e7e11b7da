"""The OpenAPI document: it describes every route, and the server keeps to it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis import checks

from clarion_server.http_api import openapi
from clarion_server.options import Config
from support.examples import examples
from support.private_api import KEY, Api, serving

DOCUMENT: dict[str, Any] = json.loads(openapi.document())

EXAMPLES = 40
"""For each operation, beside the systematic ones: some seconds in all."""

schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own: schemathesis does not know event loops."""
    started: list[str] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with serving() as api:
            started.append(f"http://127.0.0.1:{api.port}")
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield started[0]
    loop.call_soon_threadsafe(done.set)
    thread.join(10)
    loop.close()


@schema.parametrize()
@settings(max_examples=examples(EXAMPLES))
def test_the_server_keeps_to_its_document(case: schemathesis.Case[Any], url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "X-API-Key": KEY}
    # Left out: that whatever fits the schema is accepted. That since_epoch and since_offset come
    # together, or that a reason is counted in bytes, is a rule that no schema can state.
    case.call_and_validate(
        base_url=url, headers=headers, excluded_checks=[checks.positive_data_acceptance]
    )


def test_every_route_is_described_and_nothing_else() -> None:
    app = Api(Config(), None).application()
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    described = {
        (method, path) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    assert described == routes == set(openapi.OPERATIONS)


def test_every_reference_leads_somewhere() -> None:
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT))
    assert "Failure" in references
    assert set(references) <= set(DOCUMENT["components"]["schemas"])


async def test_the_document_is_served() -> None:
    async with serving() as api:
        assert (await api.get("/v1/openapi.json", key=None)).json == DOCUMENT
