"""What a fetch keeps beside its file: whole batches, for one reader, of one read."""

import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.tables import every_type, rows, same
from vault import partials
from vault.errors import Conflict, InvalidInput
from vault.partials import Partial

_READ = {"dataset": "evals", "columns": None}


def _batches(table: pa.Table, size: int) -> list[pa.RecordBatch]:
    return list(table.to_batches(max_chunksize=size))


def _keep(target: Path, batches: list[pa.RecordBatch]) -> Path:
    """Keep batches as a fetch that is killed does; the last has no place behind it where its number is odd."""
    partial = Partial(target)
    partial.begin(_READ, batches[0].schema)
    for number, batch in enumerate(batches):
        partial.add(batch, f"place {number}" if number % 2 == 0 else None)
    partial.close(remove=False)
    return partial.folder


def _found(target: Path) -> tuple[pa.Table | None, str | None]:
    """The rows that are there, which are those that the kept place is behind."""
    partial = Partial(target)
    kept, _ = partial.kept(_READ)
    try:
        if kept is None:
            return None, None
        table = pa.Table.from_batches(list(partial.replay(kept)), kept.schema)
        assert table.num_rows == kept.rows
        return table, kept.place
    finally:
        partial.close(remove=False)


def test_batches_are_kept_up_to_the_last_place(tmp_path: Path) -> None:
    """A batch without a place behind it is not what a read can go on from."""
    table = rows(100)
    _keep(tmp_path / "x.csv", _batches(table, 10))
    found, place = _found(tmp_path / "x.csv")
    assert found is not None
    assert found.equals(table.slice(0, 90))
    assert place == "place 8"


def test_every_type_survives_being_taken_up(tmp_path: Path) -> None:
    """Written in as many runs as there are batches, dictionaries among them, the rows are one Arrow stream."""
    table, target = every_type(), tmp_path / "x.arrow"
    partial = Partial(target)
    partial.begin(_READ, table.schema)
    for number, batch in enumerate([*_batches(table, 1), *_batches(table.slice(1), 1)]):
        partial.add(batch, str(number))
        partial.close(remove=False)
        partial = Partial(target)
        kept, why = partial.kept(_READ)
        assert kept is not None
        assert why is None
        partial.go_on(kept)
    partial.become(target)
    partial.close(remove=True)
    assert os.listdir(tmp_path) == ["x.arrow"]
    assert same(pa.ipc.open_stream(target).read_all(), pa.concat_tables([table, table.slice(1)]))


def test_what_was_cut_or_changed_is_not_taken_for_whole(tmp_path: Path) -> None:
    """Rows or journal, cut or with a byte changed anywhere: what is found is whole batches from the beginning."""
    table, target, chance = rows(60), tmp_path / "x.csv", random.Random(1)
    borders = {0: None, **{number * 10 + 10: f"place {number}" for number in range(0, 6, 2)}}
    shorter = 0
    for round_ in range(300):
        folder = _keep(target, _batches(table, 10))
        path = folder / chance.choice(["rows.arrow", "journal"])
        data = bytearray(path.read_bytes())
        at = chance.randrange(len(data))
        if round_ % 2:
            del data[at:]
        else:
            data[at] ^= chance.randrange(1, 256)
        path.write_bytes(data)
        found, place = _found(target)
        count = found.num_rows if found is not None else 0
        assert place == borders[count]
        assert found is None or found.equals(table.slice(0, count))
        shorter += count < 50
    assert shorter > 200


def test_rows_of_another_read_are_not_taken_up(tmp_path: Path) -> None:
    """Other options are another read; why nothing is taken up is said, and what is there stays until it begins."""
    folder = _keep(tmp_path / "x.csv", _batches(rows(30), 10))
    partial = Partial(tmp_path / "x.csv")
    kept, why = partial.kept({**_READ, "columns": ["id"]})
    assert kept is None
    assert why is not None
    assert "other options" in why
    assert (folder / "rows.arrow").stat().st_size > 0
    partial.close(remove=False)


def test_a_damaged_description_is_said(tmp_path: Path) -> None:
    """A description that cannot be read is damage, and nothing of it stays."""
    folder = _keep(tmp_path / "x.csv", _batches(rows(30), 10))
    (folder / "read.json").write_bytes(b'{"format": [1')
    partial = Partial(tmp_path / "x.csv")
    assert partial.kept(_READ) == (None, "what was kept of an earlier fetch is damaged")
    assert os.listdir(folder) == ["lock"]
    partial.close(remove=True)
    assert os.listdir(tmp_path) == []


def test_one_fetch_at_a_time(tmp_path: Path) -> None:
    """While one holds the lock another is refused; after it, with or without its rows, another may."""
    for remove in (True, False):
        first = Partial(tmp_path / "x.csv")
        with pytest.raises(Conflict, match="another fetch is writing this file"):
            Partial(tmp_path / "x.csv")
        Partial(tmp_path / "y.csv").close(remove=True)
        first.close(remove=remove)
        Partial(tmp_path / "x.csv").close(remove=True)
    assert os.listdir(tmp_path) == []


def test_nobody_else_reads_what_is_kept(tmp_path: Path) -> None:
    """Whatever the umask, directory and files are for their owner only."""
    before = os.umask(0)
    try:
        folder = _keep(tmp_path / "x.csv", _batches(rows(30), 10))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {"lock", "read.json", "rows.arrow", "journal"}


@pytest.mark.parametrize("trap", ["open", "link", "file", "owner"])
def test_a_directory_that_others_prepared_is_refused(
    tmp_path: Path, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would read the rows there, or plant some: open to them, theirs, a link, or no directory at all."""
    folder = tmp_path / ".x.csv.dsvault-partial"
    if trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif trap == "file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o700)
    if trap == "open":
        folder.chmod(0o750)
    if trap == "owner":
        uid = os.geteuid()
        monkeypatch.setattr(partials.os, "geteuid", lambda: uid + 1)
    with pytest.raises(InvalidInput, match="not a directory of yours alone"):
        Partial(tmp_path / "x.csv")


def test_what_is_kept_reaches_the_disk_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with each batch, which would cost more than the rows, but within so many seconds."""
    synced: list[str] = []
    monkeypatch.setattr(partials, "_sync", lambda path: synced.append(path.name))
    partial = Partial(tmp_path / "x.csv")
    partial.begin(_READ, rows(1).schema)
    for batch in _batches(rows(30), 1):
        partial.add(batch, "place")
    assert synced == []
    monkeypatch.setattr(partials, "_SYNC_SECONDS", 0.0)
    partial.add(_batches(rows(1), 1)[0], "place")
    assert synced[:3] == ["rows.arrow", "journal", "read.json"]
    partial.close(remove=True)


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """A directory that is not there, or a name that is too long, is said of the option."""
    for target in (tmp_path / "no" / "x.csv", tmp_path / f"{'x' * 250}.csv"):
        with pytest.raises(InvalidInput, match="-o: .*cannot be written"):
            Partial(target)


def test_a_deleted_directory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory that was deleted is still there by name, and takes no file: that ends, and is said."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for target in (Path("x.csv"), Path("/proc/x.csv")):
        with pytest.raises(InvalidInput, match="-o: .*cannot be written: no file can be made"):
            Partial(target)
