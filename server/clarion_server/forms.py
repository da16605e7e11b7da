"""The wire forms of a publication: encoded once, shared by every receiver of that form."""

from __future__ import annotations

from clarion_fanout.publication import Publication
from clarion_server.frames import frame
from clarion_server.protocol import message


class WebSocketForm:
    """A text frame with the `message` object."""

    def encode(self, publication: Publication) -> bytes:
        frames = publication.frames
        if frames is None:
            frames = publication.frames = {}
        encoded = frames.get(self)
        if encoded is None:
            encoded = frames[self] = frame(message(publication))
        return encoded


class EventForm:
    """An event of a stream with a single topic: its id is the publication's own position."""

    def encode(self, publication: Publication) -> bytes:
        frames = publication.frames
        if frames is None:
            frames = publication.frames = {}
        encoded = frames.get(self)
        if encoded is None:
            encoded = b"data: " + message(publication) + b"\n\n"
            if publication.offset:
                id = position_id(publication.topic, publication.epoch, publication.offset)
                encoded = f"id: {id}\n".encode() + encoded
            frames[self] = encoded
        return encoded


def position_id(topic: str, epoch: str, offset: int) -> str:
    """A position as part of an event id. `|` and `;` occur in no topic or epoch."""
    return f"{topic}|{epoch}|{offset}"


WEBSOCKET = WebSocketForm()
EVENT = EventForm()
