"""What an entry of the log says of a compartment that was written: whose it is, what it holds, and under which keys."""

from collections.abc import Iterable, Mapping, Sequence

from vault.catalog import CompartmentRow
from vault.manifest import Manifest
from vault.workings.names import Holder

__all__ = ["about_columns", "about_compartment"]


def about_columns(manifests: Iterable[Manifest], groups: Iterable[str] | None = None) -> dict[str, list[str]]:
    """The names and ids of the columns that any of these versions has, of these groups or of all."""
    wanted = None if groups is None else frozenset(groups)
    names: dict[str, None] = {}
    ids: dict[str, None] = {}
    for manifest in manifests:
        for column in manifest.columns:
            if wanted is None or column.group in wanted:
                names |= dict.fromkeys(column.shown)
                ids[column.id] = None
    return {"columns": list(names), "column_ids": list(ids)}


def about_compartment(
    holder: Holder,
    place: CompartmentRow,
    dataset: str | None,
    *,
    epochs: Mapping[str, int],
    shards: Sequence[Sequence[int]],
    started: str,
) -> dict[str, object]:
    """Whose compartment it is and of what; the groups that were written with the epochs of their keys, and its shards.

    ``dataset`` is the name, None where that is not known any more; ``started`` when the work began.
    """
    return {
        "vendor": holder.name,
        "vendor_id": holder.id,
        "dataset": dataset,
        "dataset_id": place.dataset,
        "compartment": place.id,
        "groups": sorted(epochs),
        "epochs": dict(sorted(epochs.items())),
        "shards": shards,
        "started": started,
    }
