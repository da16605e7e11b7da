"""What can go wrong, each with its own name.

    ClarionError
      Closed            the client is at its end, and will not connect again
      Refused           the server answered a command with an error
      Unsubscribed      the server ended a subscription that it had granted
      MessagesLost      messages of a topic cannot be had any more; raised by iteration
      SlowConsumer      a queue with when_full="raise" was full
      Unanswered        nobody knows whether the command was carried out
      PublishError      a publisher could not publish, or does not know whether it did
        PublishRefused    the server will not have this message
        NotAllPublished   some messages of a batch failed; `results` says which

Any other exception that comes out of this package is a mistake: a `ValueError` or `TypeError` is
the caller's, everything else is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clarion_client.events import Lost, Published


class ClarionError(Exception):
    """Anything that this package raises on purpose."""


class Closed(ClarionError):
    """The client has closed, and will not connect again by itself.

    code: the close code that said so (4501: the token is not accepted, 4503: a limit is reached,
    ...; the whole table is in the description of the protocol); the HTTP status of a refused
    handshake; or 1000 when the program itself closed the client.
    """

    def __init__(self, message: str, code: int = 1000) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class Refused(ClarionError):
    """The server answered a command with an error.

    code: for programs, such as "forbidden" or "no_history". topic: what it was about, or "".
    retry_s: where the same command may succeed later, after so many seconds.
    """

    def __init__(
        self, message: str, code: str, topic: str = "", retry_s: float | None = None
    ) -> None:
        super().__init__(f"{topic}: {message} ({code})" if topic else f"{message} ({code})")
        self.message = message
        self.code = code
        self.topic = topic
        self.retry_s = retry_s


class Unsubscribed(ClarionError):
    """The server ended the subscription of `topic`. It may have been granted for a while only."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"{topic}: unsubscribed by the server: {reason or 'no reason given'}")
        self.topic = topic
        self.reason = reason


class MessagesLost(ClarionError):
    """Messages of `topic` are gone: fetch the state that they described from where it is kept.

    The subscription is alive. Iterate over it again, and it goes on behind the gap.
    """

    def __init__(self, lost: Lost) -> None:
        super().__init__(f"{lost.topic}: messages are lost: {lost.reason}")
        self.lost = lost
        self.topic = lost.topic


class SlowConsumer(ClarionError):
    """The queue of a subscription with when_full="raise" was full; the subscription is over."""


class Unanswered(ClarionError, TimeoutError):
    """The answer did not come, in time or at all.

    sent: the command was sent, so that it may have been carried out. False: it was not.
    """

    def __init__(self, message: str, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class PublishError(ClarionError):
    """A message was not published, or nobody knows whether it was.

    In the second case the same idempotency key makes another try safe, for as long as the server
    remembers it (five minutes unless configured otherwise).

    reason: the last thing that went wrong, in words. status: of the last HTTP answer; None where
    there was none.
    """

    def __init__(self, message: str, reason: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class PublishRefused(PublishError):
    """The server will not have this message, and another try would not change that.

    code: for programs, such as "bad_data" or "unauthorized"; the status where the answer was not
    that of a Clarion server. status: of the HTTP answer; 200 for a message of a batch whose others
    were taken.
    """

    status: int

    def __init__(self, reason: str, code: str, topic: str = "", status: int = 200) -> None:
        what = f"{reason} ({code})"
        super().__init__(f"{topic}: {what}" if topic else what, reason, status)
        self.code = code
        self.topic = topic


class NotAllPublished(PublishError):
    """Some messages of a batch were not published. `results` has an entry for each message."""

    def __init__(self, results: Sequence[Published | PublishError]) -> None:
        failures = [result for result in results if isinstance(result, PublishError)]
        super().__init__(f"{len(failures)} of {len(results)} not published; first: {failures[0]}")
        self.results = results
