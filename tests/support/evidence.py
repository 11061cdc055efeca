"""What the log says of reads, as whoever judges an incident takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vault.audit import Kind
from vault.owner import Vault
from vault.rowsets import read_items

#: A shard, and a row of it.
Row = tuple[int, int]


@dataclass
class Told:
    """The entries of one read."""

    begun: Mapping[str, Any]
    went_on: list[Mapping[str, Any]] = field(default_factory=list)
    ended: Mapping[str, Any] | None = None

    @property
    def outcome(self) -> str | None:
        """How it ended; None where nobody said."""
        return self.ended["outcome"] if self.ended is not None else None

    def listed(self, rows: Mapping[int, int]) -> list[Row]:
        """The rows that left, as they are listed; ``rows`` are how many each shard has."""
        parts = [*self.went_on, *([self.ended] if self.ended is not None else [])]
        return [
            (shard, row)
            for part in parts
            for item in read_items(part["served"])
            for shard in range(item.first, item.last + 1)
            for row in np.flatnonzero(item.mask(rows[shard])).tolist()
        ]

    def bound(self, rows: Mapping[int, int]) -> set[Row]:
        """Every row that may have left: where the read has no end, also what is behind all that is listed."""
        listed = set(self.listed(rows))
        if self.ended is not None:
            return listed
        shard, row = self.begun["resumed"] or (-1, 0)
        behind = max(listed, default=(shard, row - 1))
        opened = {shard for first, last in self.begun["shards"] for shard in range(first, last + 1)}
        return listed | {(shard, row) for shard in opened for row in range(rows[shard]) if (shard, row) > behind}


def told(vault: Vault) -> list[Told]:
    """Every read that the log knows, in the order in which they began."""
    reads: dict[int, Told] = {}
    for sequence, entry in vault.audit_entries():
        if entry.kind is Kind.READ_BEGUN:
            reads[sequence] = Told(entry.fields)
        elif entry.kind is Kind.READ_WENT_ON:
            reads[entry.fields["read"]].went_on.append(entry.fields)
        elif entry.kind is Kind.READ_ENDED:
            reads[entry.fields["read"]].ended = entry.fields
    return list(reads.values())
