"""Moments in the past, as options take them."""

from datetime import UTC, datetime

__all__ = ["past"]


def past(text: str, option: str) -> datetime:
    """``2026-12-01T08:00:00Z``, or ``12h`` for so long ago; raises InvalidInput naming the option."""
    from vault.encoding import duration, utcnow
    from vault.errors import InvalidInput

    if text[-1:] in "smhdw" and text[:-1].isdecimal():
        return utcnow() - duration(text, option)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{option}: {text[:80]!r} is neither a time such as 2026-12-01T08:00:00Z nor how long ago, such as 12h"
        ) from None
    if found.tzinfo is None:
        raise InvalidInput(f"{option}: say with the time what offset from UTC it has, such as 2026-12-01T08:00:00Z")
    return found.astimezone(UTC)
