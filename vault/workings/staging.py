"""Rows that others encoded, run by run, on their way into a version."""

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from vault.manifest import Gathering
from vault.workings.errands import Encoded
from vault.workings.fanout import VendorCopy
from vault.workings.rows import RowKeys

__all__ = ["StagedRows"]


@final
class StagedRows:
    """What was put of the runs so far; shards are numbered on from ``shard``."""

    def __init__(self, keys: RowKeys, fresh: Gathering, copies: Mapping[str, VendorCopy], shard: int) -> None:
        self._keys = keys
        self._fresh = fresh
        self._copies = copies
        self._shard = shard
        self._added = 0

    def take(self, encoded: Encoded) -> None:
        """The chunks of the next run: its shards come behind those before, and its keys may repeat none."""
        first = encoded.entries[0].ref.group if encoded.entries else None
        shard = self._shard
        for entry in encoded.entries:
            self._fresh.add(entry._replace(ref=replace(entry.ref, shard=shard + entry.ref.shard)))
            if entry.ref.group == first:
                self._added += entry.ref.rows
                self._shard = max(self._shard, shard + entry.ref.shard + 1)
        for vendor, copies in encoded.copies.items():
            self._copies[vendor].note((content, replace(ref, shard=shard + ref.shard)) for content, ref in copies)
        if encoded.keys is not None:
            self._keys.add(encoded.keys)

    def end(self) -> int:
        """How many rows there are; raises InvalidInput where one has the key of another."""
        self._keys.check()
        return self._added
