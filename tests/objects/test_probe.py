"""A store that does not keep its promises is refused before a vault is made on it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import vault
from tests.objects.places import moto_bucket, s3_environment
from tests.support.postgres import postgres
from tests.support.servers import OpenBao
from vault.errors import InvalidInput, KmsError, NotFound, Unavailable
from vault.objects import open_store, probe


class _Own(MemoryFileSystem):
    """Memory of its own under another scheme, whose ways of putting are told apart."""

    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's own way
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.store, self.pseudo_dirs = type(self).store, type(self).pseudo_dirs


class Overwriting(_Own):
    """Takes whatever comes, whichever way."""

    protocol = "overwriting"
    store: dict[str, Any] = {}  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode="overwrite", **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return super()._open(path, mode.replace("x", "w"), **kwargs)


class Racing(_Own):
    """Looks first and writes a moment later."""

    protocol = "racing"
    store: dict[str, Any] = {}  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        import time

        if mode == "create" and self.exists(path):
            raise FileExistsError
        time.sleep(0.05)
        super().pipe_file(path, value, mode="overwrite", **kwargs)


class OpenOnly(_Own):
    """Refuses in ``open`` and overwrites in ``pipe_file``."""

    protocol = "openonly"
    store: dict[str, Any] = {}  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode="overwrite", **kwargs)


class PipeOnly(_Own):
    """Refuses in ``pipe_file`` and overwrites in ``open``."""

    protocol = "pipeonly"
    store: dict[str, Any] = {}  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self.store.setdefault(path, value) is not value:
            raise FileExistsError
        del self.store[path]
        super().pipe_file(path, value, mode="overwrite", **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return super()._open(path, mode.replace("x", "w"), **kwargs)


class Truncating(_Own):
    """Keeps all but the last byte."""

    protocol = "truncating"
    store: dict[str, Any] = {}  # noqa: RUF012

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        return bytes(super().cat_file(path, start, end, **kwargs))[:-1]


class Blind(_Own):
    """Lists nothing."""

    protocol = "blind"
    store: dict[str, Any] = {}  # noqa: RUF012

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return {}


class Keeping(_Own):
    """Deletes nothing."""

    protocol = "keeping"
    store: dict[str, Any] = {}  # noqa: RUF012

    def _rm(self, path: str) -> None:
        return

    rm_file = _rm


_ALL = [Overwriting, Racing, OpenOnly, PipeOnly, Truncating, Blind, Keeping]


@pytest.fixture(autouse=True)
def _registered() -> None:
    for each in _ALL:
        each.store.clear()
        fsspec.register_implementation(each.protocol, each, clobber=True)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Overwriting, "it overwrites what is there"),
        (Racing, "overwrites an object that is there instead of refusing a second one"),
        (Truncating, "does not read back what was written"),
        (Blind, "does not list an object that was written just now"),
    ],
)
def test_init_refuses_a_store_that_breaks_a_promise(tmp_path: Path, kind: type[_Own], sentence: str) -> None:
    """One sentence says what is wrong; neither the directory nor an object in the store is left."""
    with pytest.raises(InvalidInput, match=f"--store: .*{sentence}"):
        vault.init(tmp_path / "lab", store=f"{kind.protocol}://bucket/vault")
    assert not (tmp_path / "lab").exists()
    assert kind.store == {}


def test_init_writes_into_nothing_that_is_used(tmp_path: Path, bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another vault's store or database, and a KMS that does not know the token, are refused before anything is made."""
    url, store = postgres().database(), str(tmp_path / "store")
    vault.init(tmp_path / "one", catalog=url, store=store)
    with pytest.raises(InvalidInput, match="^--catalog: the catalog already belongs to a vault"):
        vault.init(tmp_path / "two", catalog=url)
    with pytest.raises(InvalidInput, match="^--store: the store already belongs to a vault"):
        vault.init(tmp_path / "two", store=store)
    monkeypatch.setenv("BAO_TOKEN", "no-token-of-this-server")
    free, kms = postgres().database(), bao.uri(bao.mount())
    with pytest.raises(KmsError, match="does not let this process's token"):
        vault.init(tmp_path / "two", catalog=free, kms=kms)
    assert not (tmp_path / "two").exists()
    monkeypatch.setenv("BAO_TOKEN", bao.token)
    vault.init(tmp_path / "two", catalog=free, kms=kms)
    assert vault.open(tmp_path / "one").vendors() == []


@pytest.mark.parametrize("kind", [Overwriting, Racing, Truncating, Blind])
def test_init_refuses_such_a_witness(tmp_path: Path, kind: type[_Own]) -> None:
    """A witness that could be overwritten holds nobody to anything."""
    with pytest.raises(InvalidInput, match="^--witness: "):
        vault.init(tmp_path / "lab", witness=f"{kind.protocol}://bucket/vault")
    assert not (tmp_path / "lab").exists()
    assert kind.store == {}


def test_a_witness_may_keep_what_is_deleted(tmp_path: Path) -> None:
    """A store has to let gc remove things; a witness that lets nobody do so is a good one."""
    with pytest.raises(InvalidInput, match="--store: the store has an object still that was deleted"):
        vault.init(tmp_path / "lab", store="keeping://bucket/vault")
    vault.init(tmp_path / "lab", witness="keeping://bucket/witness")
    assert any("checkpoints" in name for name in Keeping.store)


@pytest.mark.parametrize("kind", [OpenOnly, PipeOnly])
def test_the_way_that_refuses_is_found(kind: type[_Own]) -> None:
    """Of a package that nobody knows, the way of putting is used that does not overwrite."""
    store = open_store(f"{kind.protocol}://bucket/vault")
    probe(store)
    store.put("objects/a", b"one")
    with pytest.raises(vault.errors.Conflict):
        store.put("objects/a", b"two")
    assert store.get("objects/a") == b"one"


def test_a_package_that_overwrites_since_is_not_written_to() -> None:
    """Also of a vault that is there already: every process finds the way anew, and puts nothing where there is none."""
    store = open_store("overwriting://bucket/vault")
    for _ in range(2):
        with pytest.raises(Unavailable, match="it overwrites what is there"):
            store.put("objects/a", b"one")
    assert Overwriting.store == {}


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A path below a file: one sentence, and nothing is made."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInput, match="--store: the store cannot be used"):
        vault.init(tmp_path / "lab", store=str(tmp_path / "file" / "store"))
    assert not (tmp_path / "lab").exists()


def test_nothing_is_left_of_a_store_in_a_vault_that_is_not_made(tmp_path: Path) -> None:
    """The store was fine and the witness is not: the store's directory is gone again."""
    with pytest.raises(InvalidInput, match="--witness"):
        vault.init(tmp_path / "lab", witness="blind://bucket/w")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there_is_refused(tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket is not made in passing."""
    for name, value in s3_environment(moto).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match="--store: the store cannot be used: .*there is no such bucket"):
        vault.init(tmp_path / "lab", store="s3://no-such-bucket/vault")
    assert not (tmp_path / "lab").exists()


def test_a_vault_is_made_on_a_bucket(tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good bucket has the vault's first objects afterwards, and nothing of the trial."""
    for name, value in s3_environment(moto).items():
        monkeypatch.setenv(name, value)
    bucket = moto_bucket(moto)
    vault.init(tmp_path / "lab", store=f"s3://{bucket}/vault")
    store = open_store(f"s3://{bucket}/vault")
    assert len(list(store.list("roots"))) == 1
    assert list(store.list("probe")) == []


@pytest.mark.parametrize(
    ("url", "extra", "package"),
    [("gs://bucket/vault", "gcs", "gcsfs"), ("az://bucket/vault", "azure", "adlfs"), ("s3://bucket/v", "s3", "s3fs")],
)
def test_a_missing_package_is_named(tmp_path: Path, url: str, extra: str, package: str) -> None:
    """Without the optional part one sentence says what to install, and no traceback."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from vault_cli.main import run\n"
        f"sys.argv = ['dsvault', 'init', {str(tmp_path / 'lab')!r}, '--store', {url!r}]\n"
        "run()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert f"pip install dsvault[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("url", ["s3://", "s3:///vault", "nosuchscheme://x"])
def test_a_url_that_names_no_store_is_a_users_mistake(url: str) -> None:
    """A sentence that names the option."""
    with pytest.raises(InvalidInput, match="^--store: "):
        probe(open_store(url))


def test_what_a_package_says_of_a_url_is_not_repeated() -> None:
    """A URL with a password in it, or a package that quotes one, is in no sentence."""
    with pytest.raises(InvalidInput) as caught:
        open_store("az://user:hunter2@bucket/vault?sig=hunter2")
    assert "hunter2" not in str(caught.value)
    with pytest.raises((InvalidInput, NotFound)) as caught:
        open_store("unknown://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)
