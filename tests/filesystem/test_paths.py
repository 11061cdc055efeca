"""Paths, listings and errors of ``dsvault://``, and what its instances hold."""

import json
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.tables import rows
from vault.errors import Conflict, Frozen, InvalidInput, LimitReached, NotGranted, Unauthenticated, Unavailable
from vault.filesystem import DsvaultFileSystem
from vault.filesystem.asking import Access, Options
from vault.filesystem.made import Handle, Kept

_FILE = "evals/latest.parquet"


@pytest.fixture
def served(granted: Lab) -> Iterator[tuple[Lab, Path]]:
    """A lab whose vendor acme is granted id, prompt and lang of the even rows of evals; and acme's profile."""
    with broker(granted.folder) as endpoint:
        yield granted, granted.profile("acme", endpoint)


def _opened(profile: Path, **options: Any) -> DsvaultFileSystem:
    return fsspec.filesystem("dsvault", profile=str(profile), **options)


def _reads(lab: Lab) -> int:
    return sum(entry.kind.name == "READ_BEGUN" for _, entry in lab.vault.audit_entries())


def test_the_entry_point_is_there() -> None:
    """fsspec finds the file system by its protocol alone, once dsvault is installed."""
    assert fsspec.get_filesystem_class("dsvault") is DsvaultFileSystem


def test_a_listing_has_each_row_once(served: tuple[Lab, Path]) -> None:
    """A dataset is a directory with one file, though other names of it open too; nothing is read for that."""
    lab, profile = served
    files = _opened(profile)
    assert files.ls("", detail=False) == ["evals"]
    assert files.ls("dsvault://evals") == [{"name": _FILE, "type": "file", "size": None}]
    assert files.glob("*/*") == files.glob("evals/*.parquet") == files.find("") == [_FILE]
    assert files.glob("dsvault://evals/*.csv") == []
    assert [files.isdir(path) for path in ("", "evals", _FILE, "other")] == [True, True, False, False]
    assert [files.isfile(path) for path in ("", "evals", _FILE, "evals/v1.csv")] == [False, False, True, True]
    for path in ("evals/v2.parquet", "evals/latest.txt", "evals/latest", "evals/latest.parquet/x", "other/latest.csv"):
        assert not files.exists(path)
    assert _reads(lab) == 0


def test_a_size_is_exact(served: tuple[Lab, Path]) -> None:
    """What a stat says is what there is to read, in ranges and as a whole; it is told in lists from then on."""
    lab, profile = served
    files = _opened(profile)
    info = files.info(f"dsvault://{_FILE}")
    assert (info["name"], info["type"], info["version"]) == (_FILE, "file", 1)
    data = files.cat_file(_FILE)
    assert len(data) == info["size"] == files.size(_FILE) == files.ls("evals")[0]["size"]
    assert files.cat_file(_FILE, 10, 20) == data[10:20]
    with files.open(_FILE) as file:
        assert (file.seek(-4, os.SEEK_END), file.read(), file.read(), file.tell()) == (
            len(data) - 4,
            b"PAR1",
            b"",
            len(data),
        )
        assert file.seek(len(data) + 5) == len(data) + 5
        assert (file.read(3), file.seek(2), file.seek(2, os.SEEK_CUR), file.read(3)) == (b"", 2, 4, data[4:7])
        with pytest.raises(ValueError, match="beginning"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read()
    assert pq.read_table(_FILE, filesystem=files)["id"].to_pylist() == list(range(0, 100, 2))
    assert _reads(lab) == 1
    with pytest.raises(IsADirectoryError, match="^evals is a dataset; open its file latest.parquet$"):
        files.open("evals")


def test_a_new_version_is_read_anew(served: tuple[Lab, Path]) -> None:
    """At the next open, though the older one is still kept; its own name is gone then."""
    lab, profile = served
    files = _opened(profile)
    with files.open("evals/v1.parquet") as before:
        lab.vault.publish("evals", rows(6), key="id")
        time.sleep(1.1)
        assert pq.read_table(_FILE, filesystem=files).num_rows == 3
        assert not files.exists("evals/v1.parquet")
        assert files.exists("evals/v2.parquet")
        with pytest.raises(FileNotFoundError):
            files.open("evals/v1.parquet")
        assert pq.read_table(before).num_rows == 50


@pytest.mark.parametrize("act", ["publish", "revoke"])
def test_what_changes_while_a_file_is_made_is_noticed(
    served: tuple[Lab, Path], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Rows of one version are never given out as those of another, nor any once the grant has ended."""
    lab, profile = served
    files, made = _opened(profile), list[int]()
    makes = Access._make

    def changing(source: Access, offered: Any) -> Any:
        data = makes(source, offered)
        made.append(offered.grant.version)
        if len(made) == 1:
            if act == "publish":
                lab.vault.publish("evals", rows(6), key="id")
            else:
                lab.vault.revoke(offered.grant.grant)
            time.sleep(1.1)
        return data

    monkeypatch.setattr(Access, "_make", changing)
    if act == "revoke":
        with pytest.raises(FileNotFoundError):
            files.open(_FILE)
        return
    info = files.info(_FILE)
    assert (info["version"], made) == (2, [1, 2])
    assert pq.read_table(_FILE, filesystem=files).num_rows == 3


def test_several_grants_are_named_in_the_path(served: tuple[Lab, Path]) -> None:
    """Without a name it is one sentence that lists them, and the listing has a directory for each."""
    lab, profile = served
    first = lab.vault.grants("acme")[0].grant.id
    second = lab.vault.grant("acme", "evals", ["id", "answer"], where="id < 10").id
    time.sleep(1.1)
    files = _opened(profile)
    assert files.ls("", detail=False) == sorted([f"evals@{first}", f"evals@{second}"])
    with pytest.raises(Conflict) as refused:
        files.open(_FILE)
    assert str(refused.value).startswith("several grants are on evals; name one of them in the path: evals@")
    read = pq.read_table(f"evals@{second}/latest.parquet", filesystem=files)
    assert (read.column_names, read.num_rows) == (["id", "answer"], 10)
    assert sorted(files.find("")) == sorted(f"evals@{each}/latest.parquet" for each in (first, second))


def test_unknown_and_forbidden_are_the_same(served: tuple[Lab, Path]) -> None:
    """A dataset that there is not, one that is not granted, and a grant of another vendor's: the same words."""
    lab, profile = served
    lab.vault.publish("secret", rows(3), key="id")
    other = lab.vault.grant("globex", "evals", ["id"]).id
    files, said = _opened(profile), set()
    for path in ("nothing/latest.parquet", "secret/latest.parquet", f"evals@{other}/latest.parquet", "..", "evals@/x"):
        for act in (files.open, files.info, files.ls):
            with pytest.raises(FileNotFoundError) as refused:
                act(path)
            assert isinstance(refused.value, NotGranted)
            said.add(str(refused.value))
    assert said == {"no dataset or column of that name is granted to you"}


def test_a_refusal_is_not_taken_for_no_files(served: tuple[Lab, Path]) -> None:
    """A frozen vendor, a credential that has ended and a limit are said, where a file system would say no file."""
    lab, profile = served
    files = _opened(profile)
    files.info(_FILE)
    lab.vault.freeze("acme")
    time.sleep(1.1)
    for act in (files.exists, files.glob, files.find, files.ls, files.isdir, files.open, files.info):
        with pytest.raises(Frozen) as refused:
            act(_FILE)
        assert isinstance(refused.value, PermissionError)
    lab.vault.thaw("acme")
    lab.vault.revoke_credential(json.loads(profile.read_text())["credential"])
    time.sleep(1.1)
    with pytest.raises(Unauthenticated) as ended:
        files.glob("*/*")
    assert isinstance(ended.value, PermissionError)


def test_a_limit_is_a_permission(lab: Lab) -> None:
    """Used up, it is said as one, and what is kept is not a way around it for another slice."""
    lab.vault.publish("evals", rows(10), key="id")
    lab.vault.grant("acme", "evals", ["id"], limits={"rows": 10})
    with broker(lab.folder) as endpoint:
        profile = lab.profile("acme", endpoint)
        assert pq.read_table(_FILE, filesystem=_opened(profile)).num_rows == 10
        with pytest.raises(LimitReached) as refused:
            _opened(profile).open("evals/latest.csv")
        assert isinstance(refused.value, PermissionError)


def test_a_broker_that_is_gone_is_said(granted: Lab) -> None:
    """And neither a file that is not there nor one that is kept."""
    with broker(granted.folder) as endpoint:
        files = _opened(granted.profile("acme", endpoint))
        files.info(_FILE)
    for act in (files.exists, files.open, files.info, files.glob):
        with pytest.raises(Unavailable, match="cannot be reached"):
            act(_FILE)


_WRITES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("mkdir", "makedirs", "makedir", "mkdirs", "rmdir", "touch", "rm", "rm_file", "delete"), ("evals/x",)),
    **dict.fromkeys(("cp", "cp_file", "copy", "mv", "move", "rename", "put", "put_file", "upload"), (_FILE, "evals/x")),
    **dict.fromkeys(("pipe", "pipe_file", "write_bytes", "write_text"), ("evals/x", b"x")),
    "start_transaction": (),
}  # fmt: skip


@pytest.mark.parametrize("name", _WRITES)
def test_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    """Every method that would write refuses in one sentence before anything is asked of anybody."""
    files = _opened(tmp_path / "nobody.json")
    assert hasattr(AbstractFileSystem, name)
    with pytest.raises(PermissionError, match="^dsvault:// is read-only: ") as refused:
        getattr(files, name)(*_WRITES[name])
    assert isinstance(refused.value, InvalidInput)


@pytest.mark.parametrize("mode", ["wb", "w", "ab", "r+b", "xb"])
def test_no_file_is_opened_for_writing(tmp_path: Path, mode: str) -> None:
    """Whatever the mode is called."""
    with pytest.raises(PermissionError, match="read-only"):
        _opened(tmp_path / "nobody.json").open(_FILE, mode)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"grant": "x"}, "grant: name it in the path, as in dsvault://evals@<grant id>/latest.parquet"),
        ({"colums": ["id"]}, "colums: there is no such storage option"),
        ({"columns": []}, "columns: name at least one column, and none twice"),
        ({"columns": "id,id"}, "columns: name at least one column, and none twice"),
        ({"columns": 3}, "columns: give a list of names"),
        ({"where": 3}, "where: give a condition as text"),
        ({"limit": -1}, "limit: give a whole number"),
        ({"limit": True}, "limit: give a whole number"),
        ({"delivery": "post"}, "delivery: use stream or lease"),
        ({"keep_seconds": 1e9}, "keep_seconds: give seconds, 0 to 3600"),
        ({"keep_bytes": 1.5}, "keep_bytes: give a whole number"),
        ({"key": 3}, "key: give the path of a file"),
    ],
)
def test_an_option_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    """In one sentence that names it, when the file system is made."""
    with pytest.raises(InvalidInput) as refused:
        _opened(tmp_path / "acme.json", **options)
    assert str(refused.value).startswith(sentence)


def test_a_profile_that_is_its_own_content_is_not_shown(served: tuple[Lab, Path]) -> None:
    """Whoever gives the text of the file in the place of its path does not find the secret in the error."""
    text = served[1].read_text()
    with pytest.raises(InvalidInput) as refused:
        fsspec.filesystem("dsvault", profile=text)
    assert str(refused.value) == "profile: give the path of a file, and not what is in it"


def test_two_profiles_are_two_instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their absolute paths, wherever the process is, and by the environment's as it is at the time."""
    for vendor in ("acme", "globex"):
        (tmp_path / vendor).mkdir()
        monkeypatch.chdir(tmp_path / vendor)
        files = fsspec.filesystem("dsvault", profile="profile.json")
        assert repr(files) == f"DsvaultFileSystem({tmp_path}/{vendor}/profile.json)"
        assert files is fsspec.filesystem("dsvault", profile=tmp_path / vendor / "profile.json")
        monkeypatch.setenv("DSVAULT_PROFILE", "profile.json")
        assert fsspec.filesystem("dsvault") is files
    monkeypatch.setenv("DSVAULT_PROFILE", "")
    with pytest.raises(InvalidInput, match="^profile: name the profile's file in storage_options, or in DSVAULT_PROF"):
        fsspec.filesystem("dsvault")


def test_a_profile_that_is_replaced_is_another_access(served: tuple[Lab, Path]) -> None:
    """The file is looked at each time: an instance does not go on under what was in it before."""
    lab, profile = served
    files = _opened(profile)
    files.info(_FILE)
    lab.vault.grant("globex", "evals", ["answer"])
    endpoint = json.loads(profile.read_text())["endpoint"]
    os.replace(lab.profile("globex", endpoint), profile)
    time.sleep(1.1)
    assert pq.read_table(_FILE, filesystem=files).column_names == ["answer"]


def test_a_profile_that_is_narrowed_shows_no_more(served: tuple[Lab, Path], tmp_path: Path) -> None:
    """A delegation of the same grant in the place of the profile: what was made under the wider one is not given out."""
    _, profile = served
    files = _opened(profile)
    assert pq.read_table(_FILE, filesystem=files).num_rows == 50
    narrowed = tmp_path / "narrowed.json"
    vault.delegate(profile, "intern", narrowed, expires=timedelta(hours=1), columns=["id"], where="id < 10")
    os.replace(narrowed, profile)
    read = pq.read_table(_FILE, filesystem=files)
    assert (read.column_names, read.num_rows) == (["id"], 5)


def test_an_instance_holds_no_secret(served: tuple[Lab, Path]) -> None:
    """Its text, its JSON and its pickle hold the path of the profile and no word of it; each gives it back."""
    _, profile = served
    files = _opened(profile, columns=["id"])
    files.info(_FILE)
    document = json.loads(profile.read_text())
    shown = [repr(files).encode(), str(vars(files)).encode(), files.to_json().encode(), pickle.dumps(files)]
    with files.open(_FILE) as file:
        shown += [repr(file).encode(), str(vars(file)).encode()]
    for text in shown:
        for secret in (document["secret"], document["key"]["d"], "prompt number"):
            assert secret.encode() not in text
    assert str(profile).encode() in shown[3]
    assert pickle.loads(shown[3]) is files
    assert AbstractFileSystem.from_json(files.to_json()) is files


def test_threads_share_one_read(served: tuple[Lab, Path]) -> None:
    """However many ask at once, for whom fsspec makes an instance each, a file is made once."""
    lab, profile = served
    begin = threading.Barrier(6)

    def size(_: int) -> tuple[int, int]:
        begin.wait()
        files = _opened(profile)
        return id(files), files.size(_FILE)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(size, range(6)))
    assert len({size for _, size in found}) == 1
    assert len({instance for instance, _ in found}) == 6
    assert _reads(lab) == 1


def _in_a_child(files: DsvaultFileSystem, answers: Any) -> None:
    answers.put((os.getpid(), files.size(_FILE), id(files._source)))


def test_a_forked_process_has_connections_of_its_own(served: tuple[Lab, Path]) -> None:
    """An instance that was used before the fork reads on both sides, and each side reads for itself."""
    lab, profile = served
    files = _opened(profile)
    size = files.size(_FILE)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_in_a_child, args=(files, answers))
    process.start()
    process.join(60)
    child, found, source = answers.get()
    assert (process.exitcode, found) == (0, size)
    assert child != os.getpid()
    assert source != id(files._source)
    assert files.size(_FILE) == size
    assert _reads(lab) == 2


def test_what_is_kept_ends(served: tuple[Lab, Path]) -> None:
    """After its seconds a file is gone from memory without anybody asking, and is read anew for who asks."""
    lab, profile = served
    files = _opened(profile, keep_seconds=1)
    files.info(_FILE)
    files.info(_FILE)
    assert _reads(lab) == 1
    deadline = time.monotonic() + 20
    while files._access.kept._files and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files._access.kept._files == {}
    files.info(_FILE)
    assert _reads(lab) == 2


def test_erased_rows_are_not_read_for_long(served: tuple[Lab, Path]) -> None:
    """A file is given out for its seconds from its making on, however often it is asked for."""
    lab, profile = served
    files = _opened(profile, keep_seconds=2)
    assert pq.read_table(_FILE, filesystem=files).num_rows == 50
    lab.vault.erase("evals", keys=[0, 2])
    deadline, found = time.monotonic() + 20, 50
    while found == 50 and time.monotonic() < deadline:
        time.sleep(0.2)
        # A tool that has the footer of the old file when the new one is made fails, and reads it the next time.
        with suppress(OSError):
            found = pq.read_table(_FILE, filesystem=files).num_rows
    assert found == 48


def test_kept_files_have_a_bound() -> None:
    """Beyond so many bytes the oldest go; the newest stays, so that its size holds when it is opened."""
    import pyarrow as pa

    kept = Kept(60, 100)
    for name in "abc":
        kept.get(name, lambda: pa.py_buffer(bytes(40)))
    assert list(kept._files) == ["b", "c"]
    kept.get("d", lambda: pa.py_buffer(bytes(400)))
    assert list(kept._files) == ["d"]
    assert kept.found("d") is not None
    assert kept._turns == {}


def test_a_failed_read_is_not_kept() -> None:
    """Nobody is left waiting for it, and the next one tries again."""
    import pyarrow as pa

    kept = Kept(60, 100)

    def fail() -> Any:
        raise Unavailable("gone")

    with pytest.raises(Unavailable):
        kept.get("a", fail)
    assert kept._turns == {}
    assert kept.get("a", lambda: pa.py_buffer(b"x")).data.to_pybytes() == b"x"


def test_a_handle_reads_without_copies_and_with() -> None:
    """As bytes, into a buffer, by lines, and as a view."""
    import pyarrow as pa

    handle = Handle("x", pa.py_buffer(b"one\ntwo\nthree"))
    assert (handle.readable(), handle.seekable(), handle.writable(), handle.size) == (True, True, False, 13)
    assert handle.readline() == b"one\n"
    target = bytearray(3)
    assert (handle.readinto(target), target) == (3, b"two")
    assert bytes(handle.read_buffer(2)) == b"\nt"
    assert handle.readall() == b"hree"
    assert Options("p").keep_seconds == 60
