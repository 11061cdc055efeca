"""Times as somebody asks for them: a moment, or how long ago."""

from datetime import UTC, datetime, timedelta

from vault.encoding import duration
from vault.errors import InvalidInput

__all__ = ["moment"]


def moment(given: "str | datetime | timedelta | None", option: str, now: datetime) -> datetime | None:
    """ISO 8601, in UTC where it has no zone, or a duration ago such as ``2h``; InvalidInput naming the option."""
    if given is None:
        return None
    if isinstance(given, timedelta):
        found = now - given
    elif isinstance(given, datetime):
        found = given
    else:
        found = _read(given.strip(), option, now)
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput(f"{option}: {str(given)[:80]!r} is beyond the times that can be written") from error


def _read(text: str, option: str, now: datetime) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    try:
        return now - duration(text, option)
    except InvalidInput as error:
        raise InvalidInput(
            f"{option}: {text[:80]!r} is neither a time such as 2026-01-31T12:30:00Z nor a duration such as 2h or 30d"
        ) from error
