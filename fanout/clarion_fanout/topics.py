"""Topic names: their grammar, and the namespace that carries a topic's options.

A topic is 1-255 bytes of ``A-Z a-z 0-9 _ - . : / @ # = + ,``. The part before the first ``:``
is its namespace; a topic without ``:`` is in the default namespace, whose name is ``default``.
None of these characters needs escaping in JSON or Redis, so a name is spliced as it stands.
"""

from __future__ import annotations

import re

MAX_TOPIC_BYTES = 255
DEFAULT_NAMESPACE = "default"
USER_NAMESPACE = "user"

_TOPIC = re.compile(r"[A-Za-z0-9_\-.:/@#=+,]{1,255}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_\-.]{1,64}")

is_topic = _TOPIC.fullmatch
"""Truthy for a name that follows the grammar."""

is_namespace = _NAMESPACE.fullmatch
"""Truthy for a name that may be configured as a namespace: it must be the start of a topic."""


def namespace_of(topic: str) -> str:
    """The name of the namespace that `topic` belongs to."""
    name, colon, _ = topic.partition(":")
    return name if colon else DEFAULT_NAMESPACE


def why_not_a_topic(name: str) -> str:
    """One sentence for people: what is wrong with a name that `is_topic` refused."""
    if not name:
        return "a topic must not be empty"
    if len(name) > MAX_TOPIC_BYTES:
        return f"a topic has at most {MAX_TOPIC_BYTES} characters, this one has {len(name)}"
    for place, character in enumerate(name):
        if not is_topic(character):
            return f"character {character!a} at place {place} is not allowed in a topic"
    return "not a topic"
