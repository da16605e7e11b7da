"""The wire forms of a publication: encoded once, shared by every receiver of that form."""

from __future__ import annotations

from clarion_fanout.publication import Publication
from clarion_server.frames import frame
from clarion_server.protocol import written


class WebSocketForm:
    """A text frame with the object."""

    def encode(self, publication: Publication) -> bytes:
        frames = publication.frames
        if frames is None:
            frames = publication.frames = {}
        encoded = frames.get(self)
        if encoded is None:
            encoded = frames[self] = frame(written(publication))
        return encoded


class EventForm:
    """An event of a stream with a single topic: its id is the publication's own position."""

    def encode(self, publication: Publication) -> bytes:
        frames = publication.frames
        if frames is None:
            frames = publication.frames = {}
        encoded = frames.get(self)
        if encoded is None:
            id = ""
            if publication.epoch:
                id = position_id(publication.topic, publication.epoch, publication.offset)
            encoded = frames[self] = published(publication, id)
        return encoded


def published(publication: Publication, id: str) -> bytes:
    """A publication as an event. Messages have no name: they are what a page's `onmessage` gets."""
    if publication.op != Publication.op:
        return event(publication.op, written(publication), id)
    encoded = b"data: " + written(publication) + b"\n\n"
    return f"id: {id}\n".encode() + encoded if id else encoded


def event(name: str, data: bytes, id: str = "") -> bytes:
    """One event with a name; `data` is a single line."""
    head = f"event: {name}\n" if not id else f"event: {name}\nid: {id}\n"
    return head.encode() + b"data: " + data + b"\n\n"


def position_id(topic: str, epoch: str, offset: int) -> str:
    """A position as part of an event id. `|` and `;` occur in no topic or epoch."""
    return f"{topic}|{epoch}|{offset}"


WEBSOCKET = WebSocketForm()
EVENT = EventForm()
