"""The wire forms of a publication: encoded once, shared by every receiver of that form."""

from __future__ import annotations

from clarion_fanout.hub import Form
from clarion_fanout.publication import Publication
from clarion_server.compression import Compressor
from clarion_server.deflate import MAX_WINDOW
from clarion_server.frames import COMPRESSED_TEXT, frame
from clarion_server.protocol import written


class _Form:
    """Keeps what a form makes of a publication with that."""

    def encode(self, publication: Publication) -> bytes:
        if publication.form is self:
            return publication.frame
        others = publication.others
        if others is not None and self in others:
            return others[self]
        frame = self.make(publication)
        publication.keep(self, frame)
        return frame

    def make(self, publication: Publication) -> bytes:
        """The frame, encoded anew."""
        raise NotImplementedError


class WebSocketForm(_Form):
    """A text frame with the object."""

    def make(self, publication: Publication) -> bytes:
        return frame(written(publication))


class CompressedForm(_Form):
    """A compressed frame, where the topic's namespace wants that and it is worth it; or else the
    very frame that everybody else gets. For clients that have agreed to it (RFC 7692)."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor

    def make(self, publication: Publication) -> bytes:
        payload = None
        if type(publication) is Publication:
            payload = self._compressor.compress(publication.topic, written(publication))
        return WEBSOCKET.encode(publication) if payload is None else frame(payload, COMPRESSED_TEXT)


class NarrowForm(_Form):
    """The same for clients whose window is smaller than usual (RFC 7692, section 7.1.2.1).

    Nothing is compressed for them anew: a message that is no longer than their window refers back
    no further than it reaches, so they get the frame of all others. Longer ones come as they are.

    window: in bits, below `MAX_WINDOW`.
    """

    def __init__(self, wide: CompressedForm, window: int) -> None:
        self._wide = wide
        self._size = 1 << window

    def make(self, publication: Publication) -> bytes:
        fits = len(written(publication)) <= self._size
        return (self._wide if fits else WEBSOCKET).encode(publication)


def compressed_forms(compressor: Compressor) -> dict[int, Form]:
    """The form for clients that have agreed to compression, by their window in bits."""
    wide = CompressedForm(compressor)
    narrow = {window: NarrowForm(wide, window) for window in range(8, MAX_WINDOW)}
    return {**narrow, MAX_WINDOW: wide}


class EventForm(_Form):
    """An event of a stream with a single topic: its id is the publication's own position."""

    def make(self, publication: Publication) -> bytes:
        id = ""
        if publication.epoch:
            id = position_id(publication.topic, publication.epoch, publication.offset)
        return published(publication, id)


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
