"""How connections end, and what that means for coming back."""

from __future__ import annotations

NORMAL = 1000
PROTOCOL_ERROR = 1002
NO_CLOSE_FRAME = 1006
TOO_BIG = 1009
TOKEN_EXPIRED = 4002
NO_PONG = 4003


def come_back(code: int) -> bool:
    """Whether a connection that ended with close code `code` is to be made again.

    The rule makes a table unnecessary: 4000-4499 come back and 4500-4999 do not; of the RFC's own
    codes only those do not that blame us for what we sent.
    """
    return not (4500 <= code <= 4999 or code in (1002, 1003, 1007, 1008, 1009))


def status_comes_back(status: int) -> bool:
    """Whether a handshake that was refused with an HTTP status is to be tried again.

    408 (no complete request in time), 425 and 429 are about the moment, as is 5xx; other refusals
    are about the request, which would be the same next time.
    """
    return status in (408, 425, 429) or status >= 500
