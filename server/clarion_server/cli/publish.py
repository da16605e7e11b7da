"""`clarion publish`: hands messages to a server through its private HTTP API."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence

from clarion_client import (
    Draft,
    Json,
    NotAllPublished,
    Published,
    Publisher,
    PublishError,
    PublishRefused,
)
from clarion_fanout.topics import is_topic, why_not_a_topic
from clarion_server import config
from clarion_server.cli.terminal import DIM, RED, Failure, Paint, printable, put

DEFAULT_URL = "http://127.0.0.1:8001"
URL_VARIABLE, KEY_VARIABLE = "CLARION_API_URL", "CLARION_API_KEY"
NO_SERVER = (
    "Is a server running? `clarion serve` starts one; --api says where it is. With --id it is safe"
    " to try again."
)
PRIVATE_PORT = f"Is --api the private port? It is {DEFAULT_URL} unless configured."

REQUEST_S = 30
"""A publish takes milliseconds, a batch of 1,000 tens of them; this is a server that is stuck."""

GIVE_UP_S = 30
"""A pipe outlives the restart of a server. One that was never there is reported at once."""

BATCH = 1000
"""Lines that are read before they are published: the client's largest request."""

MAX_LINE_BYTES = 67_108_864
"""The largest `limits.data_bytes` that can be configured."""

_READ_BYTES = 65_536

Result = Published | PublishError


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
    parser.add_argument(
        "--conflation-key",
        metavar="KEY",
        help="what the message is the news of, such as the name of a share: where the policy of its"
        " namespace is `latest`, clients that are behind get the newest of each",
    )
    parser.epilog = (
        '  clarion publish news \'{"text":"hello"}\'\n'
        "  clarion publish prices:all '[\"ACME\",17.25]' --conflation-key ACME\n"
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
        "--key", default=key, metavar="KEY", help=f"its API key; better in {KEY_VARIABLE}"
    )


def run(options: argparse.Namespace) -> int:
    if not is_topic(options.topic):
        raise Failure(why_not_a_topic(options.topic), status=2)
    if options.data != "-":
        data = _json(options.data, options.text, "DATA")
        with _publisher(options, 0) as publisher:
            [result] = _published(publisher, [_draft(options, data, options.id or None)])
        if isinstance(result, PublishError):
            raise _failure(result, options.api)
        return _report([result])
    status = 0
    with _publisher(options, 0) as first, _publisher(options, GIVE_UP_S) as later:
        publisher = first
        for batch in filter(None, _batches(options)):
            results = _published(publisher, batch)
            judged = [result for result in results if _is_judged(result)]
            status |= _report(judged)
            if len(judged) < len(results):
                raise next(
                    _failure(result, options.api)
                    for result in results
                    if isinstance(result, PublishError) and not _is_judged(result)
                )
            publisher = later
    return status


def _publisher(options: argparse.Namespace, give_up_s: float) -> Publisher:
    try:
        key = options.key or None
        return Publisher(options.api, key=key, timeout_s=REQUEST_S, give_up_s=give_up_s)
    except ValueError as error:
        raise Failure(str(error), status=2) from None


def _draft(options: argparse.Namespace, data: Json, id: str | None) -> Draft:
    return Draft(options.topic, data, id, options.conflation_key)


def _published(publisher: Publisher, batch: Sequence[Draft]) -> Sequence[Result]:
    try:
        return publisher.publish_many(batch)
    except NotAllPublished as failed:
        return failed.results
    except ValueError as error:
        raise Failure(str(error), status=2) from None


def _is_judged(result: Result) -> bool:
    """Whether the server has said what becomes of this message; others may fare better."""
    if isinstance(result, PublishRefused):
        return result.status in (200, 400, 413) and result.code != str(result.status)
    return isinstance(result, Published)


def _failure(error: PublishError, api: str) -> Failure:
    """Why nothing can be published, and what to do about it."""
    if not isinstance(error, PublishRefused):
        if error.status is None:
            return Failure(f"{api}: {error.reason}", NO_SERVER)
        advice = PRIVATE_PORT if error.status == 200 else "Try again in a moment."
        return Failure(f"not published: {error.reason}", advice)
    if error.code == str(error.status):
        return Failure(f"{api}: {error.reason}, not as a Clarion server does", PRIVATE_PORT)
    what = f"not published: {error.reason or error.code} ({error.status} {error.code})"
    if error.status in (401, 403):
        return Failure(what, f"Pass one of the server's api_keys with --key or {KEY_VARIABLE}.")
    return Failure(what, PRIVATE_PORT if error.status in (404, 405) else "")


def _json(text: str, plain: bool, name: str) -> Json:
    try:
        return Json(json.dumps(text, ensure_ascii=False) if plain else text)
    except json.JSONDecodeError as error:
        what = f"{name} is not JSON: {error.msg}, at character {error.pos + 1}"
        advice = "JSON text stands in quotes of its own: '\"hello\"'. Or say --text."
        raise Failure(what, advice, 2) from None
    except UnicodeError:
        raise Failure(f"{name} is not valid UTF-8", status=2) from None
    except ValueError as error:
        raise Failure(f"{name} is not JSON: {error}", status=2) from None


def _batches(options: argparse.Namespace) -> Iterator[list[Draft]]:
    """Lines of standard input, as many at once as are there: nothing waits for a batch to fill."""
    number = 0
    for lines in _lines(sys.stdin.fileno()):
        batch: list[Draft] = []
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
            id = f"{options.id}-{number}" if options.id else None
            batch.append(_draft(options, data, id))
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


def _report(results: Sequence[Result]) -> int:
    """Prints a line for each message; the exit status says whether all were published."""
    paint, status = Paint(sys.stdout), 0
    for result in results:
        if isinstance(result, PublishError):
            put(sys.stdout, f"{paint('not published', RED)}: {printable(result.reason)}")
            status = 1
            continue
        notes = ["known already, not published again"] if result.duplicate else []
        if result.position is not None:
            epoch, offset = result.position
            done = f"offset {offset}"
            notes.insert(0, f"epoch {printable(epoch)}")
        else:
            done = "published"
            notes.append("no history, no offset")
        put(sys.stdout, f"{printable(result.topic)}  {done}  {paint(', '.join(notes), DIM)}")
    return status
