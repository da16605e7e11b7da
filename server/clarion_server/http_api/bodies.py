"""Reading requests: bodies and queries, bounded in size and time, decoded into Structs.

The same Structs make the OpenAPI document, so what is said there is what is checked here. Their
`Meta` states what the decoder checks; what stands in `extra_json_schema` is checked by a handler,
which can give a better reason.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeVar

import msgspec
from aiohttp import hdrs, web

from clarion_fanout.topics import MAX_TOPIC_BYTES, is_topic, why_not_a_topic
from clarion_server.codes import Code
from clarion_server.http_api.errors import Refusal
from clarion_server.options import Limits

T = TypeVar("T")

_PATTERN = r"[A-Za-z0-9_\-.:/@#=+,]"

TopicName = Annotated[
    str,
    msgspec.Meta(
        description="A topic: 1 to 255 characters of `A-Z a-z 0-9 _ - . : / @ # = + ,`.",
        examples=["orders:42"],
        extra_json_schema={
            "pattern": f"^{_PATTERN}+$",
            "minLength": 1,
            "maxLength": MAX_TOPIC_BYTES,
        },
    ),
]
TopicStart = Annotated[
    str,
    msgspec.Meta(
        description="What a topic may start with, or nothing.",
        examples=["orders:"],
        extra_json_schema={"pattern": f"^{_PATTERN}*$", "maxLength": MAX_TOPIC_BYTES},
    ),
]


async def read(request: web.Request, limits: Limits) -> bytes:
    """The body of a request. Raises `Refusal` when it is too large, too slow or broken."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if encoding is not None and encoding.lower() != "identity":
        # What inflates has no size until it is too late.
        raise Refusal(415, Code.BAD_REQUEST, "compressed bodies are not accepted", close=True)
    announced = request.content_length
    if announced is not None and announced > limits.body_bytes:
        raise _too_large(limits)
    try:
        if request.content.is_eof():
            # Nearly always the body came with the head, and needs no timer.
            return await request.read()
        async with asyncio.timeout(limits.handshake_s):
            return await request.read()
    except TimeoutError:
        text = f"the body did not arrive within {limits.handshake_s:g} seconds"
        raise Refusal(408, Code.BAD_REQUEST, text, close=True) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limits) from None
    except (web.RequestPayloadError, ConnectionError):
        raise Refusal(400, Code.BAD_REQUEST, "the body is broken", close=True) from None


def _too_large(limits: Limits) -> Refusal:
    text = f"the body has more than {limits.body_bytes} bytes"
    return Refusal(413, Code.TOO_LARGE, text, close=True)


def decode(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """What `data` means. Raises `Refusal` with the place of the fault."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError:
        raise Refusal(400, Code.BAD_REQUEST, "a string is not valid UTF-8") from None
    except RecursionError:
        raise Refusal(400, Code.BAD_REQUEST, "nested too deep") from None
    except msgspec.DecodeError as error:
        raise Refusal(400, Code.BAD_REQUEST, str(error)) from None


def query(request: web.Request, struct: type[T]) -> T:
    """The query of a request as a `struct`. Raises `Refusal`; unknown parameters are ignored."""
    values = request.query
    if len(values) != len(set(values)):
        raise Refusal(400, Code.BAD_REQUEST, "a parameter is given twice")
    try:
        return msgspec.convert(dict(values), struct, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(400, Code.BAD_REQUEST, str(error)) from None


def checked(topic: str) -> str:
    """`topic`, if it follows the grammar. Raises `Refusal`."""
    if not is_topic(topic):
        raise Refusal(400, Code.BAD_TOPIC, why_not_a_topic(topic), topic=topic[:MAX_TOPIC_BYTES])
    return topic
