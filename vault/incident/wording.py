"""Numbers, times and sentences of a report, for people. What comes from the log is text, and made harmless here."""

from datetime import UTC, datetime, timedelta

from vault.encoding import timestamp
from vault.exposure import Amounts, Exposure, Part

__all__ = ["amounts", "count", "exactly", "harmless", "masked", "moment", "moment_or", "plural", "size", "summary"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: So many places are named in a sentence.
_FEW = 10
_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def harmless(text: object) -> str:
    """Text without what acts on a screen or turns its direction: such characters are shown as a dot."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(each if each.isprintable() else "·" for each in shown)


def moment(at: int) -> str:
    """A time to the second, in UTC."""
    return f"{_EPOCH + timedelta(microseconds=at):%Y-%m-%d %H:%M:%S}"


def exactly(at: int | None) -> str | None:
    """A time as the log has it."""
    return timestamp(_EPOCH + timedelta(microseconds=at)) if at is not None else None


def moment_or(at: int | None, otherwise: str) -> str:
    """A time, or what is said where there is none."""
    return moment(at) if at is not None else otherwise


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}"


def plural(number: int, one: str, several: str | None = None) -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def size(number: int) -> str:
    """A number of bytes in the unit that fits."""
    value, unit = float(number), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{number} bytes" if not unit else f"{value:.1f} {_UNITS[unit]}"


def masked(part: Part) -> str:
    """What a column's values were replaced by, if anything."""
    return ", ".join(mask if place == part.column else f"{place}: {mask}" for place, mask in part.masks)


def summary(found: Exposure, *, with_returned: bool = True) -> list[str]:
    """What matters, in sentences; ``with_returned`` also of what it sent back, which earlier reports say nothing of."""
    return [
        *_served(found),
        *_who(found),
        *_could(found),
        *_others(found),
        *(_returned(found) if with_returned else []),
        *_standing(found),
        *_in_doubt(found),
    ]


def _period(found: Exposure) -> str:
    first = f"from {moment(found.since)} " if found.since is not None else ""
    return f"{first}until {moment(found.until if found.until is not None else found.through)}"


def _served(found: Exposure) -> list[str]:
    total, sentences = found.total, []
    name = harmless(found.vendor)
    if not total.reads and not total.bound_reads:
        return [f"{name} was served nothing {_period(found)}: the log has no delivery to it."]
    if total.reads:
        sentences.append(
            f"{name} was served exactly {plural(found.cells, 'different cell')} {_period(found)}: "
            f"{plural(total.rows, 'row')} and {size(total.bytes)} in {plural(total.reads, 'complete read')}."
        )
    else:
        sentences.append(f"{name} has no complete read {_period(found)}.")
    if total.bound_reads:
        unsized = f", {total.unsized:,} of them without an end" if total.unsized else ""
        sentences.append(
            f"At most {plural(found.cells_at_most, 'more cell')} may have been served beside those: in "
            f"{plural(total.bound_reads, 'delivery', 'deliveries')} that broke off, had no end, or were leases or "
            f"reads of shared files{unsized}."
        )
    return sentences


def _who(found: Exposure) -> list[str]:
    if not found.flows:
        return []
    credentials = {flow.who.credential for flow in found.flows}
    addresses = {flow.who.address for flow in found.flows}
    hands = {hand for flow in found.flows for hand in flow.who.delegates}
    first, last = min(flow.first for flow in found.flows), max(flow.last for flow in found.flows)
    more = f", handed on to {plural(len(hands), 'delegate')}" if hands else ""
    return [
        f"The first delivery began at {moment(first)} and the last ended at {moment(last)} (UTC), under "
        f"{plural(len(credentials), 'credential')}{more}, from {plural(len(addresses), 'address', 'addresses')}."
    ]


def _could(found: Exposure) -> list[str]:
    cells = found.cells_not_read
    if not cells:
        return ["It could have read nothing else under its grants."]
    up_to = "up to " if any(part.up_to for part in found.parts) else ""
    return [f"It could have read {up_to}{plural(cells, 'more cell')} under its grants, and did not."]


def _others(found: Exposure) -> list[str]:
    names = sorted({shared.vendor for shared in found.shared})
    if not names:
        return ["No other vendor's compartment holds any of the same rows and columns."]
    return [f"Some of the same rows and columns are also held for {', '.join(map(harmless, names))}."]


def _returned(found: Exposure) -> list[str]:
    sent = found.returned
    if not sent:
        return []
    states = [each.state for each in sent]
    waiting, rejected, accepted = (states.count(state) for state in ("waiting", "rejected", "accepted"))
    told = [
        *([f"{waiting:,} {'waits' if waiting == 1 else 'wait'} for the lab"] if waiting else []),
        *([f"{_were(rejected)} rejected"] if rejected else []),
        *([f"{_were(accepted)} accepted"] if accepted else []),
    ]
    sentences = [f"It sent back {plural(len(sent), 'submission')}: {', '.join(told)}."]
    places = sorted({(each.dataset, number) for each in sent for number in each.versions})
    if places:
        shown = ", ".join(f"{harmless(dataset)} version {number}" for dataset, number in places[:_FEW])
        more = f" and {len(places) - _FEW:,} more" if len(places) > _FEW else ""
        sentences.append(f"Columns of what it sent are in {shown}{more}.")
    return sentences


def _were(number: int) -> str:
    return f"{number:,} {'was' if number == 1 else 'were'}"


def _standing(found: Exposure) -> list[str]:
    if found.frozen and found.frozen[-1].last is None:
        return [f"It has been frozen since {moment(found.frozen[-1].first)}."]
    return ["It is not frozen: it can read on, as far as its grants and credentials are live."]


def _in_doubt(found: Exposure) -> list[str]:
    sentences = list(map(harmless, found.doubts))
    if found.odd:
        numbers = ", ".join(map(str, found.odd[:10])) + (", …" if len(found.odd) > 10 else "")
        sentences.append(
            f"{plural(len(found.odd), 'entry', 'entries')} of the log cannot be understood and may be false: {numbers}."
        )
    return sentences


def amounts(of: Amounts) -> str:
    """Amounts on one line."""
    exact = f"{plural(of.reads, 'read')}, {plural(of.rows, 'row')}, {size(of.bytes)}"
    if not of.bound_reads:
        return exact
    return f"{exact}; at most {plural(of.bound_rows, 'row')} in {of.bound_reads:,} more"
