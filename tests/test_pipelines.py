"""A server with a namespace that has steps, from the configuration to its metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from clarion_fanout.broker import Want
from clarion_server import pipelines
from clarion_server.app import Worker
from clarion_server.options import Namespace, PipelineOptions
from clarion_server.pipeline.options import JsonSchema, Python, Redact
from support.server import configuration, no_errors, running
from support.waiting import until
from support.wire import Wire, command, connected

SCHEMA = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}

SOURCE = """
import time
def work(data):
    if "seconds" in data:
        time.sleep(data["seconds"])
    if "why" in data:
        raise ValueError(data["why"])
    return {"did": data["id"]}
"""


def namespace(*steps: Any) -> Namespace:
    return Namespace(
        history_size=100, subscribe="everyone", publish="everyone", pipeline=tuple(steps)
    )


def namespaces(folder: Path) -> Mapping[str, Namespace]:
    """`safe` has steps that need no process, `slow` has one that does."""
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    (folder / "steps_of_pipelines_test.py").write_text(SOURCE)
    return {
        "safe": namespace(
            JsonSchema(schema=str(folder / "schema.json")), Redact(fields=("secret",))
        ),
        "slow": namespace(Python(function="steps_of_pipelines_test:work", folder=str(folder))),
    }


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncIterator[Worker]:
    pipeline = PipelineOptions(**({"processes": 2} | options))
    async with running(configuration(namespaces=namespaces(folder), pipeline=pipeline)) as worker:
        yield worker


async def publish(at: Worker, topic: str, data: object) -> tuple[int, Any, Mapping[str, str]]:
    url = f"http://127.0.0.1:{at.api_port}/v1/publish"
    body = {"topic": topic, "data": data}
    async with aiohttp.request("POST", url, json=body) as answer:
        return answer.status, await answer.json(), answer.headers


async def tell(client: Wire, topic: str, data: object, id: int) -> None:
    await client.send(command("publish", topic=topic, data=data, id=id))


async def test_what_backends_and_clients_publish_goes_through_the_steps(tmp_path: Path) -> None:
    async with serving(tmp_path) as at, connected(at.port) as client:
        await client.subscribe("safe:1")
        status, answer, _ = await publish(at, "safe:1", {"id": 1, "secret": "x"})
        assert (status, answer["offset"]) == (200, 1)
        assert (await client.said("message"))["data"] == {"id": 1}
        await tell(client, "safe:1", {"id": 2, "secret": "y"}, 7)
        said = [await client.said(), await client.said()]
        assert {each["op"] for each in said} == {"message", "published"}
        assert [each["data"] for each in said if each["op"] == "message"] == [{"id": 2}]
        assert at.preparation is not None
        assert not at.preparation.pool.busy
        status, answer, _ = await publish(at, "slow:1", {"id": 3})
        assert status == 200
        page = await at.broker.read("slow:1", Want())
        assert [each.data for each in page.publications] == [b'{"did":3}']


async def test_what_a_step_refuses_is_told_with_the_steps_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as at, connected(at.port) as client:
        status, answer, _ = await publish(at, "safe:1", {"id": "one"})
        assert status == 400
        assert answer["error"]["code"] == "bad_data"
        assert answer["error"]["message"].startswith("json_schema: ")
        status, answer, _ = await publish(at, "slow:1", {"id": 1, "why": "sold out"})
        assert (status, answer["error"]["message"]) == (400, "python: sold out")
        await tell(client, "slow:1", {"id": 1, "why": "sold out"}, 7)
        error = await client.said("error")
        assert (error["id"], error["code"]) == (7, "bad_data")
        assert error["message"] == "python: sold out"


async def test_a_full_namespace_is_answered_with_503_and_a_time(tmp_path: Path) -> None:
    async with serving(tmp_path, queue=1) as at, asyncio.TaskGroup() as group:
        first = group.create_task(publish(at, "slow:1", {"id": 1, "seconds": 0.5}))
        await until(lambda: at.publishing.held("slow"))
        status, answer, headers = await publish(at, "slow:2", {"id": 2})
        assert status == 503
        assert answer["error"]["retry_ms"] == 1000
        assert headers["Retry-After"] == "1"
        assert (await publish(at, "safe:1", {"id": 3}))[0] == 200
        assert (await first)[0] == 200


async def test_data_may_be_larger_before_the_steps_than_afterwards(tmp_path: Path) -> None:
    async with serving(tmp_path) as at:
        large = {"id": 1, "secret": "x" * 200_000}
        assert (await publish(at, "safe:1", large))[0] == 200
        status, answer, _ = await publish(at, "safe:1", {"id": 1, "other": "x" * 200_000})
        assert status == 400
        assert "the limit is 65536" in answer["error"]["message"]
        assert (await publish(at, "default:1", large))[0] == 413
        url = f"http://127.0.0.1:{at.api_port}/v1/broadcast"
        body = {"topics": ["safe:1", "default:1"], "data": large}
        async with aiohttp.request("POST", url, json=body) as response:
            good, bad = (await response.json())["results"]
        assert good["offset"] == 2
        assert bad["error"]["code"] == "too_large"


async def test_large_data_that_is_no_json_is_refused_where_the_steps_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as at:
        url = f"http://127.0.0.1:{at.api_port}/v1/publish"
        for bad in (b"1e999", b"[" * 600 + b"]" * 600):
            data = b'{"id":1,"secret":"%b","bad":%b}' % (b"x" * 100_000, bad)
            body = b'{"topic":"safe:1","data":%b}' % data
            headers = {"Content-Type": "application/json"}
            async with aiohttp.request("POST", url, data=body, headers=headers) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"]["code"] == "bad_data"
        assert at.preparation is not None
        assert at.preparation.outcomes["safe", "", "refused"] == 2
        page = await at.broker.read("safe:1", Want())
        assert not page.publications


async def test_what_takes_its_time_holds_up_no_other_message_of_its_batch(tmp_path: Path) -> None:
    async with serving(tmp_path) as at, asyncio.TaskGroup() as group:
        slow = {"topic": "slow:1", "data": {"id": 1, "seconds": 1.5}}
        quick = [{"topic": "a", "data": number} for number in range(1200)]
        bad = [{"topic": "safe:1", "data": {"id": "one"}}, {"topic": "not a topic", "data": 1}]
        last = [{"topic": "slow:1", "data": {"id": 2}}]
        messages = [slow, *quick, *bad, *last]

        async def batch() -> list[Any]:
            url = f"http://127.0.0.1:{at.api_port}/v1/publish/batch"
            async with aiohttp.request("POST", url, json={"messages": messages}) as answer:
                results: list[Any] = (await answer.json())["results"]
                return results

        asked = group.create_task(batch())
        await until(lambda: at.publishing.held("slow") == 2)
        page = await at.broker.read("a", Want())
        assert page.position is not None
        assert page.position.offset == 1200
        assert not asked.done()
        results = await asked
        assert [results[0]["offset"], results[-1]["offset"]] == [1, 2]
        assert [each["offset"] for each in results[1:1201]] == list(range(1, 1201))
        assert [each["error"]["code"] for each in results[1201:1203]] == ["bad_data", "bad_topic"]


async def test_metrics_tell_what_the_steps_did(tmp_path: Path) -> None:
    async with serving(tmp_path) as at:
        await publish(at, "slow:1", {"id": 1})
        await publish(at, "safe:1", {"id": 1})
        await publish(at, "safe:1", {"id": "one"})
        url = f"http://127.0.0.1:{at.api_port}/metrics"
        async with aiohttp.request("GET", url) as answer:
            text = await answer.text()
        labels = 'namespace="safe",outcome="refused",step="json_schema",worker="0"'
        samples = {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in text.splitlines())
            if name.startswith("clarion_pipeline_")
        }
        assert samples[f"clarion_pipeline_done_total{{{labels}}}"] == 1
        assert samples['clarion_pipeline_run_seconds_count{namespace="slow",worker="0"}'] == 1
        assert samples['clarion_pipeline_moment_seconds_count{namespace="safe",worker="0"}'] == 2
        assert samples['clarion_pipeline_processes{worker="0"}'] == 1
        assert samples['clarion_pipeline_processes_ended_total{cause="crash",worker="0"}'] == 0


async def test_draining_publishes_what_was_accepted(tmp_path: Path) -> None:
    async with serving(tmp_path) as at, connected(at.port) as client:
        await tell(client, "slow:1", {"id": 1, "seconds": 0.5}, 1)
        await until(lambda: at.publishing.held("slow"))
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(publish(at, "slow:1", {"id": 2}))
            await until(lambda: at.publishing.held("slow") == 2)
            group.create_task(at.drain())
            await client.goodbye()
            client.close()
        status, answer, _ = await asked
        assert (status, answer["offset"]) == (200, 2)
        assert (await publish(at, "slow:1", {"id": 3}))[0] == 503
        assert (await publish(at, "default:1", {"id": 3}))[0] == 200


async def test_a_server_whose_namespaces_have_no_steps_has_no_processes() -> None:
    config = configuration()
    assert pipelines.make(config) is None
    assert pipelines.ending_seconds(config) == 0
    with no_errors():
        async with running(config) as at:
            assert at.preparation is None
