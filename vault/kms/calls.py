"""What a KMS's own log says that it was asked to open: the words that all such logs are brought to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from vault.errors import InvalidInput
from vault.model import KeyScope

__all__ = ["Call", "Told", "as_text", "moment"]


@dataclass(frozen=True, slots=True)
class Call:
    """One blob that the KMS opened, or refused to open.

    ``scope`` is what its context says, None where that is none of dsvault's; ``hidden`` is what stands in the place of
    a context that the log does not show. ``key`` is the KMS key by the name that the log has for it. ``takes_key`` says
    that it was the KMS key itself that was given out. ``who`` is the KMS's own account of who asked.
    """

    time: datetime
    id: str
    operation: str
    key: str
    scope: KeyScope | None
    opened: bool
    who: Mapping[str, str]
    hidden: str | None = None
    takes_key: bool = False


@dataclass(slots=True)
class Told:
    """What files of a KMS's log tell: the calls, from when to when they reach, and what is to be said of them.

    ``raw`` says that a file holds what it should not: the keys that were unwrapped, in clear.
    """

    calls: list[Call] = field(default_factory=list)
    lines: int = 0
    first: datetime | None = None
    last: datetime | None = None
    raw: bool = False

    def line(self, time: datetime) -> None:
        """Count one line of the log, whatever it is about."""
        self.lines += 1
        self.first = time if self.first is None else min(self.first, time)
        self.last = time if self.last is None else max(self.last, time)


def moment(text: object, where: str) -> datetime:
    """A time in RFC 3339, to the nanosecond or the second; raises InvalidInput."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise InvalidInput(f"{where}: the time {str(text)[:40]!r} cannot be read") from error
    if found.tzinfo is None:
        raise InvalidInput(f"{where}: the time {str(text)[:40]!r} has no offset from UTC")
    return found.astimezone(UTC)


def as_text(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """What a document says under some dotted paths, by the names that they are to have; what is missing is left out."""
    found = {}
    for name, path in names.items():
        value: Any = document
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            value = ", ".join(str(each) for each in value)
        if value is not None and value != "":
            found[name] = str(value)[:500]
    return found
