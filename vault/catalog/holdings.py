"""Who holds what: holders, datasets, compartments, their wrapped data keys, and the versions in them."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, or_, select, update

from vault.catalog import schema
from vault.catalog.noting import Noting
from vault.catalog.records import CompartmentRow, DatasetRow, HolderRow, KeyRow, VersionRow
from vault.catalog.sealed import SealedValue

__all__ = ["Holdings"]


class Holdings(Noting):
    """The part of a transaction that reads and writes these."""

    # Holders

    def add_holder(
        self, row: str, kms_key: str, name: SealedValue, index: bytes, own_name: SealedValue, created: str
    ) -> None:
        """Add the owner or a vendor."""
        self._add(
            schema.holders, id=row, kms_key=kms_key, name=name, name_index=index, own_name=own_name, created=created
        )

    def set_holder(self, row: str, kms_key: str, name: SealedValue, own_name: SealedValue | None) -> None:
        """Replace a holder's KMS key and sealed fields."""
        table = schema.holders
        self._change(
            table, update(table).where(table.c.id == row).values(kms_key=kms_key, name=name, own_name=own_name)
        )

    def set_holder_name(self, row: str, name: SealedValue) -> None:
        """Replace what is sealed of a holder for the owner."""
        table = schema.holders
        self._change(table, update(table).where(table.c.id == row).values(name=name))

    def holders(self) -> list[HolderRow]:
        """Every holder, oldest first."""
        table = schema.holders
        return [_holder(row) for row in self.connection.execute(select(table).order_by(table.c.created))]

    def holder(self, holder: str) -> HolderRow | None:
        """A holder by id."""
        table = schema.holders
        row = self.connection.execute(select(table).where(table.c.id == holder)).one_or_none()
        return _holder(row) if row else None

    def holder_by_index(self, index: bytes) -> HolderRow | None:
        """A holder by the keyed index of its name."""
        table = schema.holders
        row = self.connection.execute(select(table).where(table.c.name_index == index)).one_or_none()
        return _holder(row) if row else None

    # Datasets and compartments

    def add_dataset(self, row: str, name: SealedValue, index: bytes, settings: SealedValue, created: str) -> None:
        """Add a dataset; a taken name is a Conflict."""
        self._add(schema.datasets, id=row, name=name, name_index=index, settings=settings, created=created)

    def set_dataset_settings(self, row: str, settings: SealedValue) -> None:
        """Replace a dataset's sealed settings."""
        table = schema.datasets
        self._change(table, update(table).where(table.c.id == row).values(settings=settings))

    def end_dataset(self, row: str, settings: SealedValue, index: bytes) -> None:
        """Replace a dataset's settings and what its name is found by."""
        table = schema.datasets
        self._change(table, update(table).where(table.c.id == row).values(settings=settings, name_index=index))

    def datasets(self) -> list[DatasetRow]:
        """Every dataset, oldest first."""
        table = schema.datasets
        return [_dataset(row) for row in self.connection.execute(select(table).order_by(table.c.created))]

    def dataset_by_index(self, index: bytes) -> DatasetRow | None:
        """A dataset by the keyed index of its name."""
        table = schema.datasets
        row = self.connection.execute(select(table).where(table.c.name_index == index)).one_or_none()
        return _dataset(row) if row else None

    def add_compartment(self, row: CompartmentRow) -> None:
        """Add a compartment; one for each holder and dataset."""
        self._add(schema.compartments, id=row.id, holder=row.holder, dataset=row.dataset)

    def compartment(self, holder: str, dataset: str) -> CompartmentRow | None:
        """The compartment of a holder and dataset."""
        table = schema.compartments
        row = self.connection.execute(
            select(table).where(and_(table.c.holder == holder, table.c.dataset == dataset))
        ).one_or_none()
        return CompartmentRow(row.id, row.holder, row.dataset) if row else None

    def compartments(self, *, holder: str | None = None, dataset: str | None = None) -> list[CompartmentRow]:
        """Compartments, of one holder or dataset where named."""
        table = schema.compartments
        query = select(table).order_by(table.c.id)
        if holder is not None:
            query = query.where(table.c.holder == holder)
        if dataset is not None:
            query = query.where(table.c.dataset == dataset)
        return [CompartmentRow(row.id, row.holder, row.dataset) for row in self.connection.execute(query)]

    # Keys

    def add_keys(self, rows: Iterable[KeyRow]) -> None:
        """Add wrapped data keys; an epoch that exists is a Conflict."""
        values = [_written(row) for row in rows]
        if values:
            self._note_put(schema.keys, self.connection.execute(insert(schema.keys).returning(*schema.keys.c), values))

    def key(self, compartment: str, group: str, epoch: int) -> KeyRow | None:
        """One wrapped data key."""
        table = schema.keys
        row = self.connection.execute(
            select(table).where(
                and_(table.c.compartment == compartment, table.c.column_group == group, table.c.epoch == epoch)
            )
        ).one_or_none()
        return _key(row) if row else None

    def keys(self, compartment: str) -> list[KeyRow]:
        """Every wrapped data key of a compartment, by group and epoch."""
        table = schema.keys
        query = select(table).where(table.c.compartment == compartment).order_by(table.c.column_group, table.c.epoch)
        return [_key(row) for row in self.connection.execute(query)]

    def keys_of_holder(self, holder: str) -> list[KeyRow]:
        """Every wrapped data key of a holder: its metadata keys, and those of all its compartments."""
        table, places = schema.keys, schema.compartments
        own = select(places.c.id).where(places.c.holder == holder)
        query = select(table).where(or_(table.c.compartment == holder, table.c.compartment.in_(own)))
        query = query.order_by(table.c.compartment, table.c.column_group, table.c.epoch)
        return [_key(row) for row in self.connection.execute(query)]

    def move_keys(self, moves: Iterable[tuple[KeyRow, str, bytes]]) -> int:
        """Put (row, KMS key, wrapped) in the place of rows that are still as they were; returns how many."""
        table = schema.keys
        moving = list(moves)
        # All in one go: one by one they would each be a way to the server and back.
        values = [
            {
                "at_compartment": row.compartment,
                "at_group": row.group,
                "at_epoch": row.epoch,
                "was": row.wrapped,
                "kms_key": kms_key,
                "wrapped": wrapped,
            }
            for row, kms_key, wrapped in moving
        ]
        if not values:
            return 0
        place = and_(
            table.c.compartment == bindparam("at_compartment"),
            table.c.column_group == bindparam("at_group"),
            table.c.epoch == bindparam("at_epoch"),
            table.c.wrapped == bindparam("was"),
        )
        changed = self.connection.execute(
            update(table).where(place).values(kms_key=bindparam("kms_key"), wrapped=bindparam("wrapped")), values
        )
        if changed.rowcount != len(values):
            # Some were no longer as they were read: those that did move have what was to be put there.
            moving = [move for move in moving if self._has_moved(*move)]
        self._note_rows(
            table,
            ({**_written(row), "kms_key": kms_key, "wrapped": wrapped} for row, kms_key, wrapped in moving),
        )
        return int(changed.rowcount)

    def _has_moved(self, row: KeyRow, kms_key: str, wrapped: bytes) -> bool:
        found = self.key(row.compartment, row.group, row.epoch)
        return found is not None and (found.kms_key, found.wrapped) == (kms_key, wrapped)

    def delete_keys_of_holder(self, holder: str) -> int:
        """Forget every wrapped data key of a holder; returns how many there were."""
        table, places = schema.keys, schema.compartments
        own = select(places.c.id).where(places.c.holder == holder)
        return self._remove(
            table, delete(table).where(or_(table.c.compartment == holder, table.c.compartment.in_(own)))
        )

    def delete_key(self, compartment: str, group: str, epoch: int) -> None:
        """Forget a wrapped data key that nothing needs any more."""
        table = schema.keys
        self._remove(
            table,
            delete(table).where(
                and_(table.c.compartment == compartment, table.c.column_group == group, table.c.epoch == epoch)
            ),
        )

    # Versions

    def add_version(self, row: VersionRow) -> None:
        """Add a manifest statement."""
        self._add(
            schema.versions,
            compartment=row.compartment,
            version=row.version,
            generation=row.generation,
            statement=row.statement,
            retired=row.retired,
        )

    def versions(self, compartment: str, version: int | None = None) -> list[VersionRow]:
        """The manifest statements of a compartment, retired ones among them."""
        table = schema.versions
        query = select(table).where(table.c.compartment == compartment)
        if version is not None:
            query = query.where(table.c.version == version)
        query = query.order_by(table.c.version, table.c.generation)
        return [
            VersionRow(row.compartment, row.version, row.generation, row.statement, row.retired)
            for row in self.connection.execute(query)
        ]

    def retire_versions(self, compartment: str, versions: Iterable[int], now: str) -> None:
        """Mark the present manifests of these versions as superseded."""
        table = schema.versions
        self._change(
            table,
            update(table)
            .where(
                and_(
                    table.c.compartment == compartment,
                    table.c.version.in_(list(versions)),
                    table.c.retired.is_(None),
                )
            )
            .values(retired=now),
        )

    def delete_versions(self, compartment: str) -> None:
        """Forget every manifest of a compartment."""
        table = schema.versions
        self._remove(table, delete(table).where(table.c.compartment == compartment))

    def delete_version(self, compartment: str, version: int, generation: int) -> None:
        """Forget a retired manifest."""
        table = schema.versions
        self._remove(
            table,
            delete(table).where(
                and_(
                    table.c.compartment == compartment,
                    table.c.version == version,
                    table.c.generation == generation,
                )
            ),
        )

    def set_version_statement(self, row: VersionRow, statement: bytes) -> None:
        """Put the same manifest statement under another signature in its place."""
        table = schema.versions
        self._change(
            table,
            update(table)
            .where(
                and_(
                    table.c.compartment == row.compartment,
                    table.c.version == row.version,
                    table.c.generation == row.generation,
                )
            )
            .values(statement=statement),
        )


def _holder(row: Any) -> HolderRow:
    return HolderRow(row.id, row.kms_key, row.name, row.own_name, row.created)


def _dataset(row: Any) -> DatasetRow:
    return DatasetRow(row.id, row.name, row.settings, row.created)


def _key(row: Any) -> KeyRow:
    return KeyRow(row.compartment, row.column_group, row.epoch, row.key_id, row.kms_key, row.wrapped, row.created)


def _written(row: KeyRow) -> dict[str, Any]:
    """A wrapped data key by the names of its columns."""
    return {
        "compartment": row.compartment,
        "column_group": row.group,
        "epoch": row.epoch,
        "key_id": row.key_id,
        "kms_key": row.kms_key,
        "wrapped": row.wrapped,
        "created": row.created,
    }
