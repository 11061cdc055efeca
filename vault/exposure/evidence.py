"""What the lab has signed, as far as it tells whether something ended: steps of heads, with their times.

The log is written by brokers too, and so by whoever took one over; heads are signed by the lab alone. An entry that
says that something was taken away is true where a step of a head took it away at about the entry's own time. Steps are
only ever looked for: one that is missing takes nothing away, so that whoever removes some hides nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

from vault.audit import Kind
from vault.exposure.gathering import Act, micro

__all__ = ["APART", "Evidence", "Step", "Versions", "revoked"]

#: A true entry's own time is nearer than this to that of the head beside it and to that of its place, in microseconds.
APART: Final = 60_000_000


class Step(NamedTuple):
    """A vendor from a time on: whether it was frozen, and the ids of its grants and credentials that counted."""

    at: int
    frozen: bool
    grants: frozenset[str]
    credentials: frozenset[str]


class Versions(NamedTuple):
    """A dataset from a time on: its versions by number, each with the digest of its manifest."""

    at: int
    digests: Mapping[int, str]


@dataclass(slots=True)
class Evidence:
    """The steps of the vendor's head, and by id those of the datasets', oldest first.

    ``counts`` says that the vendor's head counts now, so that no root document has left the vendor out for good.
    """

    steps: Sequence[Step]
    datasets: Mapping[str, Sequence[Versions]]
    counts: bool
    _frozen: set[int] = field(default_factory=set)

    def of(self, act: Act) -> bool | None:
        """Whether what an act says was signed; None where nothing that is signed could tell.

        Raises what a `World` takes for an entry that cannot be followed.
        """
        told = act.fields
        at = micro(act.time)
        match act.kind:
            case Kind.FROZEN:
                return self._froze(at)
            case Kind.REVOKED:
                return self._ended("grants", revoked(told), at)
            case Kind.CREDENTIAL_REVOKED:
                return self._ended("credentials", [told["credential"]], at)
            case Kind.OFFBOARDING | Kind.OFFBOARDED:
                return self._emptied(at)
            case Kind.ROOT_CHANGED:
                return self._left(told, at)
            case Kind.PUBLISHED:
                return self._listed(told["dataset_id"], {int(told["version"])}, at)
            case Kind.ROWS_ERASED:
                return self._changed(told["dataset_id"], set(map(int, told["layouts"])), at)
            case Kind.VERSIONS_EXPIRED:
                return self._gone(told["dataset_id"], set(map(int, told["versions"])), at)
            case Kind.DATASET_DELETED:
                return self._gone(told["dataset_id"], None, at)
        return None

    def _froze(self, at: int) -> bool:
        """Each step that froze the vendor bears out one entry: whoever appends a copy of that moves nothing."""
        was = False
        for number, step in enumerate(self.steps):
            if step.frozen and not was and _near(step.at, at) and number not in self._frozen:
                self._frozen.add(number)
                return True
            was = step.frozen
        return False

    def _ended(self, what: str, identities: Collection[str], at: int) -> bool | None:
        known = frozenset[str]().union(*(getattr(step, what) for step in self.steps))
        pairs = [(before, after) for before, after in pairwise(self.steps) if _near(after.at, at)]
        ended = frozenset[str]().union(*(getattr(before, what) - getattr(after, what) for before, after in pairs))
        named = known & set(identities)
        if not named:
            return None  # it never counted, and nothing ends
        return named <= ended

    def _emptied(self, at: int) -> bool:
        """Whether nothing counts any more, and did not by then: the last entry of it may come long after the step."""
        since = None
        for step in self.steps:
            empty = step.frozen and not step.grants and not step.credentials
            since = (since if since is not None else step.at) if empty else None
        return since is not None and since < at + APART

    def _left(self, told: Mapping[str, Any], at: int) -> bool | None:
        if told.get("left_out") and self.counts:
            return False
        return self._ended("grants", [each for each in told.get("ended_grants") or () if isinstance(each, str)], at)

    def _listed(self, dataset: str, numbers: set[int], at: int) -> bool | None:
        steps = self.datasets.get(dataset)
        if steps is None:
            return None
        first: dict[int, int] = {}
        for step in steps:
            for number in step.digests:
                first.setdefault(number, step.at)
        return all(number in first and _near(first[number], at) for number in numbers)

    def _changed(self, dataset: str, numbers: set[int], at: int) -> bool | None:
        steps = self.datasets.get(dataset)
        if steps is None:
            return None
        return any(
            all(number in before.digests and after.digests.get(number, before.digests[number]) != before.digests[number]
                for number in numbers)
            for before, after in pairwise(steps)
            if _near(after.at, at)
        )  # fmt: skip

    def _gone(self, dataset: str, numbers: set[int] | None, at: int) -> bool | None:
        """Whether versions were taken out of a dataset, or all that there were."""
        steps = self.datasets.get(dataset)
        if steps is None:
            return None
        return any(
            not after.digests if numbers is None else numbers <= before.digests.keys() - after.digests.keys()
            for before, after in pairwise(steps)
            if _near(after.at, at)
        )


def revoked(told: Mapping[str, Any]) -> list[Any]:
    """The grants that an entry of a revocation names: one, or those of a dataset."""
    return [*([told["grant"]] if told.get("grant") else []), *(told.get("grants") or [])]


def _near(one: int, other: int) -> bool:
    return abs(one - other) < APART
