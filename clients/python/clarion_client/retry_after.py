"""The `Retry-After` header (RFC 9110, section 10.2.3)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime


def retry_seconds(value: str, now: float) -> float | None:
    """Seconds from now, which is Unix time; None for what is no `Retry-After`."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
