"""Acts that concerned a vendor, as a person reads them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from vault.exposure.evidence import APART
from vault.exposure.exposure import Event
from vault.exposure.gathering import Act, micro
from vault.exposure.intervals import Runs, common, of_pairs
from vault.exposure.world import When, World

__all__ = ["events"]

_TOLD: Final = (
    "grant", "grants", "credential", "delegation", "dataset", "version", "versions", "columns", "where", "purpose",
    "starts", "expires", "masks", "limits", "delivery", "networks", "key", "keys", "kms_keys", "chunks", "bytes",
    "form", "since", "until",
)  # fmt: skip


def events(acts: Iterable[Act], world: World, period: Runs) -> Iterator[Event]:
    """Those about the vendor in a period, by their own time or by that of their place."""
    for act in acts:
        left_out = act.fields.get("left_out")
        named = isinstance(left_out, list) and world.name in left_out
        if act.fields.get("vendor_id") != world.vendor and not named:
            continue
        try:
            when = When.of(act)
        except (ValueError, OverflowError, TypeError):
            continue  # it is odd
        if len(common(period, of_pairs([(when.early, when.late + 1)]))):
            told = [f"its place in the log is of {act.placed}"] if when.late - when.early > APART else []
            yield Event(act.number, micro(act.time), act.kind, "; ".join([*told, *_told(act.fields)]))


def _told(fields: Mapping[str, Any]) -> list[str]:
    """What an entry says, in the order of what matters."""
    return [
        f"{name.replace('_', ' ')}: {_plain(fields[name])}"
        for name in _TOLD
        if fields.get(name) not in (None, [], {}, "")
    ]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_plain(each)}" for key, each in value.items())
    return str(value)
