"""Holders and datasets by name: the owner's view through its metadata key.

A sealed name is bound to its row, and holds what the row's open columns must agree with: swapping names,
index entries or KMS keys between rows is found out here.
"""

from dataclasses import dataclass, replace

from vault.catalog import DatasetRow, FieldSealer, HolderRow, SealedValue, Transaction
from vault.encoding import from_json, json_bytes
from vault.errors import IntegrityError, NotFound

__all__ = [
    "Dataset",
    "Holder",
    "dataset_named",
    "datasets",
    "end_dataset",
    "find_dataset",
    "find_holder",
    "holder_by_id",
    "holder_named",
    "holders",
    "insert_dataset",
    "insert_holder",
    "note_ending",
    "update_dataset",
    "update_holder",
]


@dataclass(frozen=True, slots=True)
class Holder:
    """The owner or a vendor.

    ``successor`` is the KMS key that its data keys are being wrapped under anew, if they are. ``ending`` says that its
    offboarding was begun and its KMS keys may be destroyed; ``ended`` that they are, and its name stays taken.
    """

    id: str
    name: str
    kms_key: str
    created: str
    successor: str | None = None
    ended: bool = False
    earlier: tuple[str, ...] = ()
    ending: bool = False

    @property
    def kms_keys(self) -> frozenset[str]:
        """The KMS keys that its data keys may be wrapped under."""
        return frozenset(key for key in (self.kms_key, self.successor) if key is not None)

    @property
    def every_kms_key(self) -> frozenset[str]:
        """The KMS keys that its data keys may be or have been wrapped under: old copies of the catalog hold those."""
        return self.kms_keys | set(self.earlier)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset and its settings: the row key column and the assigning column. One that was deleted keeps its row.

    ``returned`` are ids of columns whose values came from submissions, and none of them from the lab since.
    """

    id: str
    name: str
    key: str | None
    assign_by: str | None
    deleted: bool = False
    returned: tuple[str, ...] = ()


def insert_holder(transaction: Transaction, holder: Holder, owner_sealer: FieldSealer, own_sealer: FieldSealer) -> None:
    """Add a holder, sealed for the owner and for itself."""
    sealed = _sealed(holder)
    transaction.add_holder(
        holder.id,
        holder.kms_key,
        SealedValue(owner_sealer, holder.id, sealed),
        owner_sealer.index("holder name", holder.name),
        SealedValue(own_sealer, holder.id, sealed),
        holder.created,
    )


def update_holder(
    transaction: Transaction, holder: Holder, owner_sealer: FieldSealer, own_sealer: FieldSealer | None
) -> None:
    """Replace what is kept of a holder; without a sealer of its own nothing is left that it could open."""
    sealed = _sealed(holder)
    own = SealedValue(own_sealer, holder.id, sealed) if own_sealer is not None else None
    transaction.set_holder(holder.id, holder.kms_key, SealedValue(owner_sealer, holder.id, sealed), own)


def note_ending(transaction: Transaction, holder: Holder, owner_sealer: FieldSealer) -> None:
    """Note for the owner that a holder's offboarding has begun; what the holder itself could open stays as it was."""
    sealed = SealedValue(owner_sealer, holder.id, _sealed(replace(holder, ending=True)))
    transaction.set_holder_name(holder.id, sealed)


def _sealed(holder: Holder) -> bytes:
    return json_bytes(
        {
            "name": holder.name,
            "kms_key": holder.kms_key,
            "successor": holder.successor,
            "ended": holder.ended,
            "earlier": list(holder.earlier),
            "ending": holder.ending,
        }
    )


def _open_holder(row: HolderRow, sealer: FieldSealer) -> Holder:
    document = from_json(row.name.open(sealer, row.id), "a holder's name")
    if document["kms_key"] != row.kms_key:
        raise IntegrityError("the KMS key of a holder was changed in the catalog")
    successor, ended, earlier = document["successor"], document["ended"], tuple(document["earlier"])
    ending = bool(document["ending"])
    return Holder(row.id, document["name"], row.kms_key, row.created, successor, ended, earlier, ending)


def own_holder_name(row: HolderRow, own_sealer: FieldSealer) -> str:
    """A holder's name through its own metadata key."""
    if row.own_name is None:
        raise IntegrityError("a holder's own name is missing from the catalog")
    document = from_json(row.own_name.open(own_sealer, row.id), "a holder's name")
    return str(document["name"])


def holders(transaction: Transaction, sealer: FieldSealer) -> list[Holder]:
    """Every holder, oldest first."""
    return [_open_holder(row, sealer) for row in transaction.holders()]


def holder_by_id(transaction: Transaction, sealer: FieldSealer, holder: str) -> Holder:
    """A holder by id; raises IntegrityError where the catalog lacks one that something else in it names."""
    row = transaction.holder(holder)
    if row is None:
        raise IntegrityError("the catalog lacks a holder that it refers to")
    return _open_holder(row, sealer)


def find_holder(transaction: Transaction, sealer: FieldSealer, name: str) -> Holder | None:
    """A holder by name, or None."""
    row = transaction.holder_by_index(sealer.index("holder name", name))
    if row is None:
        return None
    holder = _open_holder(row, sealer)
    if holder.name != name:
        raise IntegrityError("the index of holder names was changed in the catalog")
    return holder


def holder_named(transaction: Transaction, sealer: FieldSealer, name: str) -> Holder:
    """A vendor by name; raises NotFound."""
    holder = find_holder(transaction, sealer, name)
    if holder is None:
        raise NotFound(f"there is no vendor named '{name[:80]}'")
    return holder


def _settings(dataset: Dataset) -> bytes:
    return json_bytes(
        {
            "name": dataset.name,
            "key": dataset.key,
            "assign_by": dataset.assign_by,
            "deleted": dataset.deleted,
            "returned": list(dataset.returned),
        }
    )


def insert_dataset(transaction: Transaction, dataset: Dataset, sealer: FieldSealer, created: str) -> None:
    """Add a dataset; a taken name is a Conflict."""
    transaction.add_dataset(
        dataset.id,
        SealedValue(sealer, dataset.id, dataset.name.encode()),
        sealer.index("dataset name", dataset.name),
        SealedValue(sealer, dataset.id, _settings(dataset)),
        created,
    )


def update_dataset(transaction: Transaction, dataset: Dataset, sealer: FieldSealer) -> None:
    """Replace a dataset's settings."""
    transaction.set_dataset_settings(dataset.id, SealedValue(sealer, dataset.id, _settings(dataset)))


def _open_dataset(row: DatasetRow, sealer: FieldSealer) -> Dataset:
    name = row.name.open(sealer, row.id).decode()
    document = from_json(row.settings.open(sealer, row.id), "a dataset's settings")
    returned = tuple(document.get("returned", ()))
    return Dataset(row.id, name, document["key"], document["assign_by"], bool(document["deleted"]), returned)


def datasets(transaction: Transaction, sealer: FieldSealer, *, deleted_too: bool = False) -> list[Dataset]:
    """Every dataset, oldest first; those that were deleted where they are asked for."""
    found = [_open_dataset(row, sealer) for row in transaction.datasets()]
    return [dataset for dataset in found if deleted_too or not dataset.deleted]


def end_dataset(transaction: Transaction, dataset: Dataset, sealer: FieldSealer) -> None:
    """Mark a dataset as deleted, and let its name be taken by another."""
    settings = SealedValue(sealer, dataset.id, _settings(replace(dataset, deleted=True)))
    transaction.end_dataset(dataset.id, settings, sealer.index("deleted dataset", dataset.id))


def find_dataset(transaction: Transaction, sealer: FieldSealer, name: str) -> Dataset | None:
    """A dataset by name, or None."""
    row = transaction.dataset_by_index(sealer.index("dataset name", name))
    if row is None:
        return None
    dataset = _open_dataset(row, sealer)
    if dataset.name != name or dataset.deleted:
        raise IntegrityError("the index of dataset names was changed in the catalog")
    return dataset


def dataset_named(transaction: Transaction, sealer: FieldSealer, name: str) -> Dataset:
    """A dataset by name; raises NotFound."""
    dataset = find_dataset(transaction, sealer, name)
    if dataset is None:
        raise NotFound(f"there is no dataset named '{name[:80]}'")
    return dataset
