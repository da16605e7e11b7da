"""`clarion pipeline try`: what a namespace's steps do to a document, step by step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson

from clarion_fanout import payload
from clarion_fanout.publication import PayloadError
from clarion_server import config
from clarion_server.cli.serve import add_config
from clarion_server.cli.terminal import BOLD, DIM, GREEN, RED, Failure, Paint, printable, put
from clarion_server.config.files import BadFile
from clarion_server.options import Config, Namespace

LINES = 20
"""Of a document that are shown without --full."""

WIDTH = 200
"""Characters of a line that are shown without --full."""

STDIN = "-"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["try"], help="run the steps and publish nothing")
    parser.add_argument(
        "file", metavar="FILE", help="data: JSON, or XML if it begins with <; - is standard input"
    )
    parser.add_argument("-n", "--namespace", required=True, metavar="NAME", help="whose steps")
    parser.add_argument("--text", action="store_true", help="FILE is plain text, not JSON")
    parser.add_argument("--full", action="store_true", help="show documents to their end")
    add_config(parser)
    parser.epilog = (
        "XML and plain text become a JSON string, as a publisher would send them. Steps run as in\n"
        "the server, with its limits and deadline, in a process of their own. The exit status is\n"
        "1 when the document would not be published.\n\n"
        "  clarion pipeline try -c clarion.toml -n orders order.xml"
    )


def run(options: argparse.Namespace) -> int:
    loaded = config.read(options.config)
    namespace = _namespace(loaded.config, options.namespace)
    given = _read(options.file)
    text = options.text or given.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
    show = _Show(options.full)
    try:
        data = payload.check(_quoted(given) if text else given, _most(loaded.config, namespace))
    except PayloadError as error:
        show.line("in", RED, f"refused: {error}")
        return 1
    show.document("in", data)
    return _rehearse(loaded.config, namespace, data, show)


def _namespace(c: Config, name: str) -> Namespace:
    if name in c.namespaces:
        return c.namespaces[name]
    having = [name for name, namespace in c.namespaces.items() if namespace.pipeline]
    advice = f"Those with steps: {', '.join(having)}." if having else "None has steps."
    raise Failure(f"no namespace {name} is configured", advice, 2)


def _most(c: Config, namespace: Namespace) -> int:
    """The most bytes that may come in: see `pipeline.input_bytes`."""
    most = c.limits.data_bytes
    return max(c.pipeline.input_bytes, most) if namespace.pipeline else most


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise Failure(f"{name} cannot be read: {(reason or str(error)).lower()}") from None


def _quoted(text: bytes) -> bytes:
    try:
        return orjson.dumps(text.decode())
    except UnicodeDecodeError as error:
        what = f"byte 0x{text[error.start]:02x} at place {error.start} is not valid UTF-8"
        raise Failure(what, "Publishers send JSON, which is UTF-8.") from None


def _rehearse(c: Config, namespace: Namespace, data: bytes, show: _Show) -> int:
    # What makes steps takes a while to load; a command line that is wrong shows at once.
    from clarion_server.pipeline import chain, rehearsal

    try:
        files = chain.read_files(namespace.pipeline)
    except BadFile as error:
        raise Failure(str(error)) from None
    play = rehearsal.Play(
        path=sys.path,
        steps=namespace.pipeline,
        files=files,
        data=data,
        limit=c.limits.data_bytes,
        deadline_s=c.pipeline.deadline_s,
        memory_bytes=c.pipeline.memory_mb << 20,
    )
    number, good = 0, True
    for number, stage in enumerate(rehearsal.stages(play), 1):
        good = stage.outcome == "passed"
        if good:
            show.document(f"{number} {stage.step}", stage.data, stage.seconds)
            data = stage.data
        else:
            time = f"  {stage.seconds * 1000:.2f} ms" if stage.seconds else ""
            show.line(f"{number} {stage.step}", RED, f"{stage.outcome}{time}: {stage.text}")
    if good and len(data) > c.limits.data_bytes:
        show.line("out", RED, f"refused: data has {len(data)} bytes")
        return 1
    if not number:
        show.line("out", DIM, "there are no steps that change or check it")
    return 0 if good else 1


class _Show:
    def __init__(self, full: bool) -> None:
        self._full = full
        self._paint = Paint(sys.stdout)
        self._shown = b""

    def line(self, name: str, style: int, text: str) -> None:
        put(sys.stdout, f"{self._paint(f'{name:<15}', BOLD)} {self._paint(printable(text), style)}")

    def document(self, name: str, data: bytes, seconds: float | None = None) -> None:
        took = "" if seconds is None else f"{seconds * 1000:9.2f} ms"
        same = "" if data != self._shown else "   unchanged"
        style = DIM if seconds is None else GREEN
        self.line(name, style, f"{len(data):9} bytes {took}{same}".rstrip())
        if same:
            return
        self._shown = data
        for line in self._lines(data):
            put(sys.stdout, f"    {line}")

    def _lines(self, data: bytes) -> Iterator[str]:
        value = orjson.loads(data)
        if isinstance(value, str) and "\n" in value:  # XML, as it was written
            lines = [printable(line) for line in value.splitlines()]
        else:
            text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
            lines = [printable(line) for line in text.split("\n")]
        if self._full:
            yield from lines
            return
        for line in lines[:LINES]:
            yield line if len(line) <= WIDTH else f"{line[:WIDTH]} ..."
        if len(lines) > LINES:
            yield self._paint(f"... {len(lines) - LINES} more lines (--full shows them)", DIM)
