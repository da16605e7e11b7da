"""The send window: what one client has not taken yet, bounded in bytes and time.

A client that keeps up has none. The edge makes one when the kernel takes less than it was given,
and drops it when everything has gone out. It holds references to the frames that all subscribers
share, so a thousand slow clients share one copy.

Bytes that were asked for, the replay of a history, do not count against the bound: a client that
reads them as fast as it can is not slow. That it does read is a matter of time: `stuck` says
whether nothing moved for too long.

Nothing here drops a frame and keeps the rest. Whoever adds that may drop messages alone: answers,
and publications of another `op`, say where a client stands, and it would be left to guess.
"""

from __future__ import annotations

from collections import deque


class Window:
    """See the module's text. Times are ticks, as the caller counts them."""

    __slots__ = ("_frames", "_moved", "_moved_at", "bytes")

    def __init__(self, now: int) -> None:
        self._frames: deque[tuple[bytes, bool]] = deque()
        self._moved = 0
        self._moved_at = now
        self.bytes = 0
        """Waiting bytes that count against the bound."""

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, frame: bytes, *, counts: bool = True) -> None:
        """Lets `frame` wait behind what waits already."""
        self._frames.append((frame, counts))
        if counts:
            self.bytes += len(frame)

    def take(self, size: int) -> list[bytes]:
        """The next frames to send, in order: as many as fit into `size` bytes, at least one."""
        frames: list[bytes] = []
        frame_bytes = 0
        while self._frames and (not frames or frame_bytes + len(self._frames[0][0]) <= size):
            frame, counts = self._frames.popleft()
            frames.append(frame)
            frame_bytes += len(frame)
            if counts:
                self.bytes -= len(frame)
        return frames

    def clear(self) -> None:
        """Gives up everything that waits."""
        self._frames.clear()
        self.bytes = 0

    def stuck(self, now: int, moved: int, limit: int) -> bool:
        """Whether no byte moved for `limit` ticks.

        moved: any number that changes when bytes leave for the client.
        """
        if moved != self._moved:
            self._moved = moved
            self._moved_at = now
        return now - self._moved_at >= limit
