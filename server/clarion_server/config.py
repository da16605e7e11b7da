"""The configuration in force: flags before environment before file before defaults.

`options` says what can be configured; this module reads it. It is the only one that looks at
the environment.
"""

from __future__ import annotations

from clarion_server.options import (
    AuthOptions,
    Config,
    HistoryLimits,
    Keepalive,
    KeyOptions,
    Limits,
    Namespace,
    Who,
    WindowOptions,
)

__all__ = [
    "AuthOptions",
    "Config",
    "HistoryLimits",
    "Keepalive",
    "KeyOptions",
    "Limits",
    "Namespace",
    "Who",
    "WindowOptions",
]
