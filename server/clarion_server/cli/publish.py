"""`clarion publish`: hands messages to a server through its private HTTP API."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import aiohttp
import msgspec
import orjson

from clarion_fanout.topics import is_topic, why_not_a_topic
from clarion_server import config
from clarion_server.cli.terminal import DIM, RED, Failure, Paint, printable, put

DEFAULT_URL = "http://127.0.0.1:8001"
URL_VARIABLE, KEY_VARIABLE = "CLARION_API_URL", "CLARION_API_KEY"
PRIVATE_PORT = f"Is --api the private port? It is {DEFAULT_URL} unless configured."

REQUEST_S = 30
"""A publish takes milliseconds, a batch of 1,000 tens of them; this is a server that is stuck."""

BATCH = 1000
"""Lines a request: 64 KiB lines of it would be too much for the API, ordinary ones are not."""

MAX_LINE_BYTES = 67_108_864
"""The largest `limits.data_bytes` that can be configured."""

_READ_BYTES = 65_536

_T = TypeVar("_T")


class Message(NamedTuple):
    """`data` is JSON, checked. `key` is its idempotency key, or ""."""

    topic: str
    data: bytes
    key: str

    def encode(self) -> bytes:
        """The object that the API takes. Data stays as it was written."""
        key = b',"id":' + orjson.dumps(self.key) if self.key else b""
        return b'{"topic":' + orjson.dumps(self.topic) + b',"data":' + self.data + key + b"}"


class Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class Result(msgspec.Struct):
    """What became of a message."""

    topic: str = ""
    epoch: str = ""
    offset: int = 0
    duplicate: bool = False
    error: Problem | None = None


class Results(msgspec.Struct):
    results: list[Result] = []
    error: Problem | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument(
        "data", metavar="DATA", help="JSON; or - for one message a line of standard input"
    )
    parser.add_argument("--text", action="store_true", help="DATA is plain text, not JSON")
    add_api(parser)
    parser.add_argument(
        "--id",
        default="",
        metavar="KEY",
        help="idempotency key: the same one again does not publish twice; with -, the number of"
        " the line is added",
    )
    parser.epilog = (
        '  clarion publish news \'{"text":"hello"}\'\n'
        "  clarion publish --text news hello\n"
        "  tail -f access.log | clarion publish --text log -"
    )


def add_api(parser: argparse.ArgumentParser) -> None:
    environ = config.environment()
    url = environ.get(URL_VARIABLE) or DEFAULT_URL
    parser.add_argument(
        "--api", default=url, metavar="URL", help=f"the private API (default: {DEFAULT_URL})"
    )
    key = environ.get(KEY_VARIABLE, "")
    parser.add_argument(
        "--key", default=key, metavar="KEY", help=f"its key; better in {KEY_VARIABLE}"
    )


def run(options: argparse.Namespace) -> int:
    if not is_topic(options.topic):
        raise Failure(why_not_a_topic(options.topic), status=2)
    if not options.api.startswith(("http://", "https://")):
        raise Failure(f"--api {options.api} is not an address", f"Such as {DEFAULT_URL}.", 2)
    publisher = _Publisher(options.api, options.key)
    # A runner instead of one coroutine: between two batches the program waits for standard input
    # outside of the loop, where Ctrl-C ends it at once.
    with asyncio.Runner() as runner:
        if options.data != "-":
            data = _json(options.data, options.text, "DATA")
            message = Message(options.topic, data, options.id)
            return _report([runner.run(publisher.publish(message))])
        status = 0
        for batch in filter(None, _batches(options)):
            status |= _report(runner.run(publisher.publish_all(batch)))
        return status


def _json(text: str, plain: bool, name: str) -> bytes:
    try:
        if plain:
            return orjson.dumps(text)
        orjson.loads(text)
        return text.encode()
    except orjson.JSONDecodeError as error:
        what = f"{name} is not JSON: {error.msg}, at character {error.pos + 1}"
        advice = "JSON text stands in quotes of its own: '\"hello\"'. Or say --text."
        raise Failure(what, advice, 2) from None
    except (orjson.JSONEncodeError, UnicodeError):
        raise Failure(f"{name} is not valid UTF-8", status=2) from None


def _batches(options: argparse.Namespace) -> Iterator[list[Message]]:
    """Lines of standard input, as many at once as are there: nothing waits for a batch to fill."""
    number = 0
    for lines in _lines(sys.stdin.fileno()):
        batch: list[Message] = []
        for line in lines:
            number += 1
            if not line:
                continue
            text = line.decode("utf-8", "surrogateescape")
            try:
                data = _json(text, options.text, f"line {number}")
            except Failure:
                yield batch  # what stands before the mistake is published all the same
                raise
            key = f"{options.id}-{number}" if options.id else ""
            batch.append(Message(options.topic, data, key))
            if len(batch) == BATCH:
                yield batch
                batch = []
        yield batch


def _lines(file: int) -> Iterator[list[bytes]]:
    rest = b""
    while chunk := os.read(file, _READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise Failure(f"a line of more than {MAX_LINE_BYTES} bytes", status=2)
        yield [line.rstrip(b"\r") for line in lines]
    yield [rest]


class _Publisher:
    def __init__(self, api: str, key: str) -> None:
        self._api = api.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    async def publish(self, message: Message) -> Result:
        answer = await self._post("/v1/publish", message.encode())
        return _decoded(answer, Result)

    async def publish_all(self, messages: Sequence[Message]) -> list[Result]:
        body = b'{"messages":[' + b",".join(message.encode() for message in messages) + b"]}"
        results = _decoded(await self._post("/v1/publish/batch", body), Results).results
        if len(results) != len(messages):
            raise _not_clarion(self._api)
        return results

    async def _post(self, path: str, body: bytes) -> bytes:
        timeout = aiohttp.ClientTimeout(total=REQUEST_S)
        try:
            # A redirect would carry the key elsewhere.
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(self._api + path, data=body, allow_redirects=False) as response,
            ):
                answer = await response.read()
        except TimeoutError:
            what = f"no answer from {self._api} within {REQUEST_S} seconds; the outcome is unknown"
            raise Failure(what, "With --id it is safe to try again.") from None
        except aiohttp.ClientConnectorError as error:
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            advice = "Is a server running? `clarion serve` starts one; --api says where it is."
            raise Failure(f"cannot connect to {self._api}: {reason}", advice) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise Failure(f"{self._api}: {error or type(error).__name__}") from None
        if response.status != 200:
            raise self._refused(response.status, answer)
        return answer

    def _refused(self, status: int, answer: bytes) -> Failure:
        problem = _decoded(answer, Results, Results()).error
        if problem is None:
            return _not_clarion(f"{self._api} (status {status})")
        what = f"not published: {problem.message or problem.code} ({status} {problem.code})"
        if status in (401, 403):
            return Failure(what, f"Pass one of the server's api_keys with --key or {KEY_VARIABLE}.")
        if status in (404, 405):
            return Failure(what, PRIVATE_PORT)
        return Failure(what, "Try again in a moment." if status in (429, 503) else "")


def _decoded(answer: bytes, kind: type[_T], otherwise: _T | None = None) -> _T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        if otherwise is not None:
            return otherwise
        raise _not_clarion("the server") from None


def _not_clarion(name: str) -> Failure:
    return Failure(f"{name} does not answer as a Clarion server does", PRIVATE_PORT)


def _report(results: Sequence[Result]) -> int:
    """Prints a line for each message; the exit status says whether all were published."""
    paint, status = Paint(sys.stdout), 0
    for result in results:
        if result.error is not None:
            problem = printable(result.error.message or result.error.code)
            put(sys.stdout, f"{paint('not published', RED)}: {problem}")
            status = 1
        else:
            notes = ["known already, not published again"] if result.duplicate else []
            if result.offset:
                notes.insert(0, f"epoch {printable(result.epoch)}")
            else:
                notes.append("no history, no offset")
            done = f"offset {result.offset}" if result.offset else "published"
            put(sys.stdout, f"{printable(result.topic)}  {done}  {paint(', '.join(notes), DIM)}")
    return status
