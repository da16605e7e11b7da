"""The Lua scripts that run in Redis: what must happen at once there is one of them.

Each is a file beside this one, with its contract on top. They are called by hash; a server that
does not know one answers NOSCRIPT and is sent the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from clarion_fanout.redis_wire import Argument, pack

_HERE = Path(__file__).parent


class Script:
    """A script: its text and the hash that Redis knows it by."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (_HERE / f"{name}.lua").read_bytes()
        # Redis' own choice of a name, not a matter of security.
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def packed(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> bytes:
        """The call as it goes over the wire."""
        return pack((b"EVALSHA", self.sha, len(keys), *keys, *arguments))


PUBLISH = Script("publish")
ADOPT = Script("adopt")
SEAL = Script("seal")
PUBLISH_ONCE = Script("publish_once")
READ = Script("read")
INBOX = Script("inbox")
BURY = Script("bury")
LEASE = Script("lease")
PRESENCE = Script("presence")
PRESENCE_COUNT = Script("presence_count")
PRESENCE_READ = Script("presence_read")
PRESENCE_RENEW = Script("presence_renew")

SCRIPTS = (
    ADOPT,
    SEAL,
    PUBLISH,
    PUBLISH_ONCE,
    READ,
    INBOX,
    BURY,
    LEASE,
    PRESENCE,
    PRESENCE_COUNT,
    PRESENCE_READ,
    PRESENCE_RENEW,
)
