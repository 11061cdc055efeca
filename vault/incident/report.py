"""The report of a vendor's exposure: what it was served, and could have been, from the log.

It takes the auditor's key and the signed end of the log, and neither grants nor a KMS: a vendor that was offboarded,
and one whose keys nobody has any more, is reported on like any other. Signed heads are looked at to believe less of the
log and never more: an end that the lab did not sign does not count. That a report was made is in the log before anybody
sees it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from vault.audit import Entry, Kind, Pinned, Tail
from vault.encoding import asked_time, json_bytes, timestamp
from vault.errors import IntegrityError, InvalidInput
from vault.exposure import Exposure, Gathering, exposure, settle
from vault.incident.document import FORM, document
from vault.incident.page import page
from vault.incident.plain import plain
from vault.incident.ranges import Asked
from vault.incident.reading import gather
from vault.incident.signed import signed_about
from vault.incident.wording import summary
from vault.workings.files import put_file
from vault.workings.parts import OwnerParts

__all__ = ["FORMS", "Report", "form_of", "report", "report_of"]

#: The forms of a report by the ending of its file.
FORMS: Final = {".html": "html", ".json": "json", ".md": "markdown"}
#: ISO 8601, in UTC where it has no offset, or how long ago.
Time = str | datetime | timedelta | None
#: So many ids are named in a sentence.
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Report:
    """An exposure, and its forms."""

    exposure: Exposure

    def summary(self) -> list[str]:
        """What matters, in sentences."""
        return summary(self.exposure)

    def document(self, minor: int = FORM[1]) -> dict[str, Any]:
        """What `json` encodes."""
        return document(self.exposure, minor)

    def html(self) -> bytes:
        """One page that needs nothing beside it."""
        return page(self.exposure).encode()

    def json(self, minor: int = FORM[1]) -> bytes:
        """Canonical JSON (docs/reference/incident-report.md); ``minor`` is that of its format."""
        return json_bytes(self.document(minor)) + b"\n"

    def markdown(self) -> bytes:
        """Text."""
        return plain(self.exposure).encode()

    def save(self, path: Path) -> None:
        """Write it in the form that the ending says, for its owner only, whole or not at all; raises InvalidInput."""
        data = {"html": self.html, "json": self.json, "markdown": self.markdown}[form_of(path)]()
        try:
            put_file(path, data)
        except OSError as error:
            raise InvalidInput(f"-o: {path} cannot be written ({error.strerror})") from error


def form_of(path: Path) -> str:
    """The form that a file's ending says; raises InvalidInput."""
    try:
        return FORMS[path.suffix.lower()]
    except KeyError:
        raise InvalidInput(f"-o: {path.name[:80]!r} has none of the endings .html, .json and .md") from None


def report(parts: OwnerParts, vendor: str, since: Time = None, until: Time = None) -> Report:
    """Report on a vendor, by its name or id; needs the auditor's key.

    Reads count by when they began, at ``since`` or later and before ``until``. Raises NotFound for a vendor that the
    log does not know, InvalidInput, IntegrityError where the log does not verify, and AuditError.
    """
    now = parts.clock()
    first = asked_time(since, "--since", now) if since is not None else None
    last = asked_time(until, "--until", now) if until is not None else None
    if first is not None and first > now:
        raise InvalidInput("--since: that is in the future")
    if first is not None and last is not None and first >= last:
        raise InvalidInput("--until: it is not behind --since")
    tail, pinned = parts.journal.claimed()
    secrets = tuple(parts.signers.keys.auditor_secrets())
    asked = Asked(
        vault=parts.vault,
        secrets=secrets,
        name=vendor,
        since=timestamp(first) if first is not None else None,
        until=timestamp(last) if last is not None else None,
        every=parts.journal.are_all_auditors(secrets),
    )
    gathered = _gathered(parts, tail, pinned, asked)
    found = settle(gathered, signed_about(parts, gathered.vendor, gathered.datasets))
    parts.journal.record(
        Kind.REPORTED,
        vendor=found.vendor,
        vendor_id=found.vendor_id,
        since=asked.since,
        until=asked.until,
        entries=found.entries,
    )
    return Report(found)


def _gathered(parts: OwnerParts, tail: Tail, pinned: list[Pinned], asked: Asked) -> Gathering:
    """What the log says of the vendor of a name.

    A name is given once. Whoever has the log key may say before the lab does that he added a vendor of it, so that what
    is asked for by name would be somebody who was served nothing: it is the one that has a signed head.
    """
    found = gather(parts.catalog, tail, pinned, asked)
    named = _named(found, asked.name)
    if asked.name == found.vendor or named <= {found.vendor}:
        return found
    with parts.catalog.read() as transaction:
        signed = [each for each in sorted(named) if parts.heads.signed_steps(transaction, "vendor", each)]
    if len(signed) != 1:
        raise IntegrityError(
            f"the log says of {len(named)} vendors that each was added as '{asked.name}', and signed heads do not tell "
            f"which the lab added: ask for one by its id ({', '.join(sorted(named)[:_SHOWN])})"
        )
    if signed[0] == found.vendor:
        return found
    return gather(parts.catalog, tail, pinned, replace(asked, vendor=signed[0], name=None))


def _named(found: Gathering, name: str | None) -> set[str]:
    """The ids of all vendors of a name, as far as texts."""
    added = (act.fields for act in found.acts if act.kind == Kind.VENDOR_ADDED)
    ids = (fields.get("vendor_id") for fields in added if fields.get("vendor") == name)
    return {each for each in ids if isinstance(each, str)}


def report_of(
    entries: Iterable[tuple[int, Entry]],
    vendor: str,
    since: str | None = None,
    until: str | None = None,
    placed: Mapping[int, str] | None = None,
) -> Report:
    """The report that follows from some entries of a log about a vendor, by its id; nothing is verified or recorded.

    ``placed`` are the times of the entries' places in the log, by default those that the entries have.
    """
    return Report(exposure(entries, vendor, since, until, placed))
