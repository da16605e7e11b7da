"""What each step of a pipeline costs: at its least, and a byte of the document.

Orders of one to thousands of lines go through a chain of one step; the two figures are the line
through the least processor times of the smallest and the largest document. No server is started.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clarion_server.options import Namespace
from clarion_server.pipeline import chain
from clarion_server.pipeline.options import (
    AnyStep,
    JsonSchema,
    Project,
    Python,
    Redact,
    Template,
    XmlToJson,
)
from loadtest.report import Result

LIMIT = 67_108_864
SMALL, LARGE = 1, 1000
"""Lines of an order: some 200 bytes and 100 KB."""

BATCH_S = 0.02
"""Of processor time that is measured at once: far above the clock's resolution."""

BATCHES = 15

SCHEMA = {
    "type": "object",
    "required": ["order"],
    "properties": {
        "order": {
            "type": "object",
            "required": ["id", "lines"],
            "properties": {
                "id": {"type": "string", "pattern": "^[a-z0-9-]+$"},
                "at": {"type": "string", "format": "date-time"},
                "lines": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["sku", "quantity"],
                        "properties": {
                            "sku": {"type": "string", "maxLength": 20},
                            "quantity": {"type": "integer", "minimum": 1},
                            "price": {"type": "number"},
                        },
                    },
                },
            },
        }
    },
}
TEMPLATE = """{"title": "Order {{ data.order.id }}", "at": {{ data.order.at }}, "lines": [
{% for line in data.order.lines %}
  {"text": "{{ line.quantity }} of {{ line.sku }}", "price": {{ line.price }}}
  {%- if not loop.last %},{% endif %}
{% endfor %}
]}"""

FILES = {"schema": msgspec.json.encode(SCHEMA), "template": TEMPLATE.encode()}
CHAINS: Mapping[str, Sequence[AnyStep]] = {
    "json_schema": [JsonSchema(schema="schema")],
    "xml_to_json": [XmlToJson(nodes=1_000_000)],
    "template": [Template(template="template")],
    "redact, by name": [Redact(fields=("order.customer.email", "order.lines.price"))],
    "redact, at any depth": [Redact(fields=("**.email", "**.price"))],
    "project": [Project(fields=("order.id", "order.lines.sku"))],
    "python, an object": [Python(function="copy:copy", folder="")],
    "python, bytes": [Python(function="builtins:bytes", folder="", takes="bytes")],
    "schema, redact, template": [
        JsonSchema(schema="schema"),
        Redact(fields=("order.customer.email",)),
        Template(template="template"),
    ],
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=int, default=LARGE, help="of the largest order")


def run(args: argparse.Namespace) -> Result:
    result = Result("steps", vars(args))
    for name, steps in CHAINS.items():
        made = chain.make(Namespace(pipeline=tuple(steps)), limit=LIMIT, files=FILES)
        made.load()
        write = xml if name == "xml_to_json" else order
        small, large = write(SMALL), write(args.lines)
        least, most = seconds(made, small), seconds(made, large)
        result.rows.append(
            {
                "steps": name,
                f"{SMALL} line, us": least * 1e6,
                "ns a byte": (most - least) / (len(large) - len(small)) * 1e9,
                f"{args.lines} lines, ms": most * 1e3,
                "bytes": f"{len(small)} - {len(large)}",
                "on the loop": "if small" if made.safe else "never",
            }
        )
    return result


def seconds(made: chain.Chain, data: bytes) -> float:
    """Of processor time, the least of several batches."""
    count = 1
    while (took := _batch(made, data, count)) < BATCH_S:
        count *= 2
    return min([took, *(_batch(made, data, count) for _ in range(BATCHES))]) / count


def _batch(made: chain.Chain, data: bytes, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        made.run(data)
    return time.process_time() - began


def order(lines: int) -> bytes:
    value: dict[str, Any] = {
        "id": "a-17",
        "at": "2026-01-02T03:04:05Z",
        "customer": {"name": "Zoë", "email": "zoe@example.com"},
        "lines": [
            {
                "sku": f"pen-{number:06}",
                "quantity": 1 + number % 9,
                "price": number / 4,
                "unit": "box",
            }
            for number in range(lines)
        ],
    }
    return msgspec.json.encode({"order": value})


def xml(lines: int) -> bytes:
    """The same as XML, within a JSON string."""
    inner = "\n".join(
        f'  <line unit="box"><sku>pen-{number:06}</sku><quantity>{1 + number % 9}</quantity>'
        f"<price>{number / 4}</price></line>"
        for number in range(lines)
    )
    customer = "<customer><name>Zoë</name><email>zoe@example.com</email></customer>"
    text = f'<order id="a-17" at="2026-01-02T03:04:05Z">\n  {customer}\n{inner}\n</order>'
    return msgspec.json.encode(text)
