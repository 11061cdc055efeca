"""The log's witness: what is held against it, and that nothing is served without it where it is required."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import vault
from tests.conftest import Lab
from tests.support.catalog import sql
from tests.support.moulds import Anew
from tests.support.postgres import postgres
from tests.support.reading import read
from vault import access, deployment
from vault.audit import Checkpoint, Kind, append, sign_checkpoint
from vault.audit.leaves import Tail
from vault.encoding import from_timestamp
from vault.errors import AuditError, IntegrityError, InvalidInput, Unavailable
from vault.objects import ObjectStore
from vault.owner import Vault
from vault.trust import Role

pytestmark = pytest.mark.both_catalogs


@pytest.fixture(scope="module")
def moulds() -> Anew:
    """Each vault is made anew, with the keys that its process has open then: tests here compare the sizes of logs."""
    return Anew()


def _configure(lab: Lab, *, required: bool, place: str = "witness") -> None:
    for side in ("broker", "owner"):
        with (lab.folder / side / "config.toml").open("a") as file:
            file.write(f'\n[witness]\nurl = "{place}"\nrequired = {str(required).lower()}\n')
    lab.vault = vault.open(lab.folder)


@pytest.fixture
def witnessed(granted: Lab) -> Lab:
    """A vault with a grant whose log has a witness that is required."""
    _configure(granted, required=True)
    granted.vault.audit_checkpoint()
    return granted


def _marks(lab: Lab) -> list[int]:
    folder = lab.folder / "witness" / lab.vault.parts.vault / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, witnessed: Lab) -> Lab:
    """The witness takes nothing any more; the store does."""
    put = ObjectStore.put

    def refusing(self: ObjectStore, name: str, data: object) -> None:
        if name.startswith(witnessed.vault.parts.vault):
            raise Unavailable("the store could not be reached")
        put(self, name, data)

    monkeypatch.setattr(ObjectStore, "put", refusing)
    return witnessed


def test_every_delivery_lies_at_the_witness_before_its_first_byte(
    witnessed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a read's first chunk is fetched, the witness has a checkpoint over the entry that the read begun."""
    parts = witnessed.broker_parts()
    caller = witnessed.caller(parts, "acme")
    seen: list[int] = []
    get = ObjectStore.get

    def fetching(self: ObjectStore, name: str) -> bytes:
        if name.startswith("objects/"):
            seen.append(_marks(witnessed)[-1])
        return get(self, name)

    monkeypatch.setattr(ObjectStore, "get", fetching)
    assert read(parts, caller).num_rows == 50
    (begun,) = [number for number, entry in witnessed.vault.audit_entries() if entry.kind is Kind.READ_BEGUN]
    assert seen
    assert seen[-1] >= begun


def test_no_witness_no_stream(unreachable: Lab) -> None:
    """A read is refused while a required witness takes nothing, and nothing is fetched."""
    parts = unreachable.broker_parts()
    caller = unreachable.caller(parts, "acme")
    with pytest.raises(AuditError, match="witness could not be told .*so nothing was served"):
        read(parts, caller)


def test_no_witness_no_lease(unreachable: Lab) -> None:
    """A page of keys is refused while a required witness takes nothing."""
    unreachable.vault.grant("acme", "evals", columns=["id", "prompt"])
    parts = unreachable.broker_parts()
    caller = unreachable.caller(parts, "acme")
    request = access.Request("evals", columns=("id", "prompt"), grant=unreachable.vault.grants()[-1].grant.id)
    with pytest.raises(AuditError, match="witness"):
        access.lease_page(parts, caller, request)


def test_no_witness_no_read_of_the_owners(unreachable: Lab) -> None:
    """The owner's own read is refused too."""
    with pytest.raises(AuditError, match="witness"):
        unreachable.vault.scan("evals")


def test_an_unreachable_witness_holds_up_no_freeze(unreachable: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """What takes something away is done at once, and the log says that the witness is behind."""
    with caplog.at_level(logging.WARNING, "dsvault.log"):
        unreachable.vault.freeze("acme")
    assert unreachable.vault.vendors()[0].frozen
    assert "witness could not be told" in caplog.text


def test_a_witness_that_is_not_required_may_lag(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads go on while it takes nothing, and the next checkpoint covers them."""
    _configure(granted, required=False)
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "put", _refusing)
        assert read(parts, caller).num_rows == 50
    parts.journal.settle()
    end = parts.journal.end()
    assert end is not None
    assert _marks(granted)[-1] >= end[1].size
    assert granted.vault.audit_verify() >= end[1].size


def _refusing(_store: ObjectStore, _name: str, _data: object) -> None:
    raise Unavailable("the store could not be reached")


def test_reads_that_come_together_are_told_of_together(witnessed: Lab) -> None:
    """Forty reads of eight threads are all covered, by fewer checkpoints than there are reads."""
    parts = witnessed.broker_parts()
    caller = witnessed.caller(parts, "acme")
    before = len(_marks(witnessed))
    with ThreadPoolExecutor(8) as threads:
        assert [found.num_rows for found in threads.map(lambda _: read(parts, caller), range(40))] == [50] * 40
    parts.journal.settle()
    begun = [number for number, entry in witnessed.vault.audit_entries() if entry.kind is Kind.READ_BEGUN]
    assert len(begun) == 40
    assert _marks(witnessed)[-1] >= begun[-1]
    assert len(_marks(witnessed)) - before <= 2 * len(begun)


def _rewritten(lab: Lab) -> None:
    """Everything that a taken-over broker, catalog and store can do: the last entries gone, all signed anew."""
    parts = lab.vault.parts
    with sql(lab) as connection:
        kept = connection.execute("select time, sealed from log order by sequence").fetchall()[:-2]
        connection.execute("delete from log")
        tail = Tail()
        for time, sealed in kept:
            (leaf,), tail = append(tail, [(from_timestamp(time), sealed)])
            row = (leaf.sequence, leaf.time, leaf.sealed, leaf.hash)
            connection.execute("insert into log values (?, ?, ?, ?)", row)
        signer = parts.signers.keys.signer(Role.LOG, parts.root.current)
        note = sign_checkpoint(parts.vault, tail.checkpoint, signer)
        connection.execute("update log_tail set note = ?, edge = ?", (note, b"".join(tail.edge.hashes)))
    shutil.rmtree(lab.folder / "store" / "checkpoints")


def test_a_rewritten_history_contradicts_the_witness_alone(witnessed: Lab) -> None:
    """With catalog, store and log key in one hand, what was served is still at the witness."""
    parts = witnessed.broker_parts()
    read(parts, witnessed.caller(parts, "acme"))
    parts.journal.settle()
    _rewritten(witnessed)
    with pytest.raises(IntegrityError, match="before entry .* of a checkpoint in the witness"):
        witnessed.vault.audit_verify()


def test_a_fork_contradicts_a_checkpoint_that_is_not_the_newest(witnessed: Lab) -> None:
    """A log that was forked and has outgrown the other branch since is found by the checkpoint of that branch."""
    witnessed.vault.freeze("acme")
    _rewritten(witnessed)
    for side in ("broker", "owner"):  # the forger's brokers do not tell the witness
        path = witnessed.folder / side / "config.toml"
        path.write_text(path.read_text().replace('url = "witness"', 'url = "elsewhere"'))
    other = vault.open(witnessed.folder)
    for _ in range(3):
        other.thaw("acme")
        other.freeze("acme")
    assert other.audit_verify() > _marks(witnessed)[-1]
    with pytest.raises(IntegrityError, match="forked"):
        other.audit_verify(witness=str(witnessed.folder / "witness"))


def test_two_logs_of_one_size_do_not_both_reach_the_witness(witnessed: Lab, catalog_url: str | None) -> None:
    """Whoever comes second with another log of the same size is told of the fork, and serves nothing."""
    witnessed.vault.parts.catalog.settle()
    cut = shutil.copytree(witnessed.folder, witnessed.folder.with_name("fork"))
    others = None if catalog_url is None else postgres().make(postgres().unmade(), catalog_url)
    for side in ("broker", "owner"):
        path = cut / side / "config.toml"
        text = path.read_text().replace('url = "witness"', f'url = "{witnessed.folder / "witness"}"')
        path.write_text(text if others is None else text.replace(str(catalog_url), others))
    # More than one each: the entries of keys that were opened come whenever they come.
    _stop_and_go(vault.open(witnessed.folder), "acme")
    with pytest.raises(IntegrityError, match="the witness holds another log"):
        _stop_and_go(vault.open(cut), "globex")


def _stop_and_go(lab: Vault, vendor: str) -> None:
    for _ in range(3):
        lab.freeze(vendor)
        lab.thaw(vendor)


def test_a_witness_without_checkpoints_is_no_witness(granted: Lab, tmp_path: Path) -> None:
    """An empty place, a wrong URL say, does not pass for agreement."""
    with pytest.raises(IntegrityError, match="holds no checkpoint"):
        granted.vault.audit_verify(witness=str(tmp_path / "nothing"))


def test_a_witness_that_cannot_be_read_verifies_nothing(witnessed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cannot read the witness is told so, and not that the log is whole."""

    def failing(_store: ObjectStore, name: str) -> bytes:
        raise Unavailable("the store could not be reached")

    listed = ObjectStore.get
    monkeypatch.setattr(
        ObjectStore,
        "get",
        lambda store, name: (failing if name.startswith(witnessed.vault.parts.vault) else listed)(store, name),
    )
    with pytest.raises(Unavailable, match="the witness could not be read, so that the log is not verified"):
        witnessed.vault.audit_verify()


def test_garbage_at_the_witness_is_told(witnessed: Lab) -> None:
    """What no log key ever signed is named, once the log was held against the checkpoints beside it."""
    folder = witnessed.folder / "witness" / witnessed.vault.parts.vault / "checkpoints"
    (folder / f"{1:020d}").write_bytes(b"nothing\n")
    with pytest.raises(IntegrityError, match="agrees with every checkpoint, but there is what is none: .*/0+1 in the"):
        witnessed.vault.audit_verify()
    with sql(witnessed) as connection:
        connection.execute("update log set time = '2020-01-01T00:00:00.000000Z' where sequence = 4")
    with pytest.raises(IntegrityError, match="entry 4 was changed"):
        witnessed.vault.audit_verify()


def test_what_somebody_put_in_a_checkpoints_place_holds_nothing_up(witnessed: Lab) -> None:
    """A name that is taken by what is no checkpoint costs no act that was done; verifying tells of it."""
    end = witnessed.vault.parts.journal.end()
    assert end is not None
    for ahead in range(1, 6):
        (witnessed.folder / "store" / "checkpoints" / f"{end[1].size + ahead:020d}").write_bytes(b"in the way\n")
    witnessed.vault.freeze("acme")
    assert witnessed.vault.vendors()[0].frozen
    with pytest.raises(IntegrityError):
        witnessed.vault.audit_verify()


def test_what_a_replaced_log_key_signed_holds_nothing_up(witnessed: Lab) -> None:
    """A thief of the old log key who has taken the names of checkpoints to come stops nobody, and is not believed."""
    parts = witnessed.vault.parts
    thief = parts.signers.keys.signer(Role.LOG, parts.root.current)
    witnessed.vault.rotate_key(Role.LOG)
    end = parts.journal.end()
    assert end is not None
    for size in range(end[1].size + 1, end[1].size + 6):
        parts.store.put(f"checkpoints/{size:020d}", sign_checkpoint(parts.vault, Checkpoint(size, bytes(32)), thief))
    witnessed.vault.freeze("acme")
    witnessed.vault.thaw("acme")
    assert witnessed.vault.audit_verify() > end[1].size


def test_what_is_no_checkpoint_holds_up_no_act(witnessed: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may add to the store stops no freeze, no report and no restart by it; verifying the log names it."""
    folder = witnessed.folder / "store" / "checkpoints"
    newest = max(folder.iterdir())
    (folder / f"{10**19:020d}").write_bytes(b"planted")
    (folder / f"{10**19 + 1:020d}").write_bytes(newest.read_bytes())
    opened = vault.open(witnessed.folder)
    assert "checkpoints/10000000000000000000 in the store: a checkpoint of the log is not a signed note" in caplog.text
    opened.freeze("acme")
    deployment.open_broker(witnessed.folder)
    assert opened.incident_report("acme") is not None
    with pytest.raises(IntegrityError, match="agrees with every checkpoint, but there is what is none: checkpoints/1"):
        opened.audit_verify()
    for each in (10**19, 10**19 + 1):
        (folder / f"{each:020d}").unlink()
    assert opened.audit_verify()


def test_what_is_no_checkpoint_takes_no_place_of_one(witnessed: Lab) -> None:
    """Those that are kept are the newest that are checkpoints, however much else lies behind them."""
    folder = witnessed.folder / "store" / "checkpoints"
    good = {each.name for each in folder.iterdir()}
    for number in range(60):
        (folder / f"{10**19 + number:020d}").write_bytes(b"planted")
    witnessed.vault.parts.journal.prune_checkpoints()
    assert good <= {each.name for each in folder.iterdir()}


def test_a_checkpoint_under_another_number_is_told(witnessed: Lab) -> None:
    """A checkpoint that was moved to where one of another size would be is named when the log is verified."""
    folder = witnessed.folder / "store" / "checkpoints"
    newest = max(folder.iterdir())
    (folder / f"{int(newest.name) + 1:020d}").write_bytes(newest.read_bytes())
    with pytest.raises(IntegrityError, match="checkpoints/0.* in the store: .* does not carry the number"):
        witnessed.vault.audit_verify()


@pytest.mark.parametrize(
    "table",
    [
        'url = ""',
        "url = 3",
        'url = "w"\nrequired = "yes"',
        'url = "w"\nother = 1',
        "required = true",
        'url = "nope://x"',
    ],
)
def test_a_witness_that_is_not_configured_rightly_is_refused(granted: Lab, table: str) -> None:
    """One sentence names the table or the option."""
    with (granted.folder / "broker" / "config.toml").open("a") as file:
        file.write(f"\n[witness]\n{table}\n")
    with pytest.raises(InvalidInput, match="witness"):
        granted.broker_parts()


def test_init_takes_a_witness(tmp_path: Path) -> None:
    """A vault that is made with one tells it from its first entry on."""
    made = vault.init(tmp_path / "lab", witness=str(tmp_path / "witness"), witness_required=True)
    assert list((tmp_path / "witness").rglob("0*"))
    assert made.audit_verify() >= 1
    with pytest.raises(InvalidInput, match="--witness-required"):
        vault.init(tmp_path / "other", witness_required=True)
