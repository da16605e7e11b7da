"""What holds for the topics of a namespace: each `[namespaces.NAME]`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from clarion_fanout.presence import Keeping
from clarion_server.option_values import Section, option
from clarion_server.pipeline.options import AnyStep
from clarion_server.window import Policy

Who: TypeAlias = Literal["everyone", "users", "granted", "nobody"]
"""Who may do something with a topic, from the widest to the narrowest.

everyone: any connection that has its welcome, anonymous ones too.
users: any connection with a valid token.
granted: a token whose claim has a pattern that matches the topic.
nobody: only backends, through the private API or Redis.
"""


class Namespace(Section, frozen=True, kw_only=True):
    """`[namespaces.NAME]`: the options of the topics `NAME:...`.

    The namespace `default` has the topics without a `:` and those of every namespace that is not
    configured. Whatever the options of the namespace `user`, only the user whose `sub` it is may
    subscribe to `user:<sub>`.
    """

    history_size: Annotated[
        int,
        option(
            "publications kept per topic; 0: no history, no offsets, at most once",
            "Costs nothing until it is wanted; 100 in development's default namespace.",
            unit="publications",
            least=0,
            most=1_000_000,
        ),
    ] = 0
    history_s: Annotated[
        float,
        option(
            "how long a publication is kept",
            "Five minutes: a deploy, a lift, a tunnel. Matters only with `history_size`.",
            unit="s",
            least=0,
            most=31_536_000,
        ),
    ] = 300
    subscribe: Annotated[
        Who,
        option(
            "who may subscribe",
            'Nothing is public by accident; "everyone" in development\'s default namespace.',
        ),
    ] = "granted"
    publish: Annotated[
        Who,
        option(
            "which clients may publish; backends always may",
            'Most topics are written by backends; "everyone" in development\'s default namespace.',
        ),
    ] = "nobody"
    presence: Annotated[
        Keeping,
        option(
            "what is kept of who is subscribed: how many, or also whom; with `events` every"
            " subscriber is told who comes and goes",
            "Costs nothing until it is wanted. `events` is for rooms of hundreds: a thousand"
            ' members who come back together are a million messages. "members" in development\'s'
            " default namespace.",
        ),
    ] = "off"
    slow: Annotated[
        Policy,
        option(
            "what becomes of its messages when a client does not take them and its window is full:"
            " the client is closed, whole topics are given up (`resync`), only the newest message"
            " of a topic ever waits (`latest`), or the oldest messages are given up"
            " (`drop_oldest`). With a history the client is told what is missing",
            "Nothing is ever missing: a client that is closed resumes from its position.",
        ),
    ] = "close"
    slow_bytes: Annotated[
        int,
        option(
            "what may wait for one client in the topics of this namespace together; 0: as much as"
            " in all",
            "One bound is enough until a namespace must leave room for others.",
            unit="bytes",
            least=0,
            most=1_073_741_824,
        ),
    ] = 0
    slow_messages: Annotated[
        int,
        option(
            "how many messages may wait for one client in the topics of this namespace together;"
            " 0: as many as in all",
            "One bound is enough until a namespace must leave room for others.",
            unit="messages",
            least=0,
            most=100_000_000,
        ),
    ] = 0
    slow_s: Annotated[
        float,
        option(
            "how long a message may wait for a client, also for one that reads; then it is as if"
            " the window were full. Not for `latest`. 0: as long as it takes",
            "Late is better than never, until somebody knows better.",
            unit="s",
            least=0,
            most=3600,
        ),
    ] = 0
    pipeline: tuple[AnyStep, ...] = ()
