"""Schema versions: what revisions come to, and vaults of an older schema that are upgraded, by a made-up next one."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect, text

import vault
from tests.conftest import Lab
from tests.support.postgres import postgres
from vault import access, deployment
from vault.audit import Kind
from vault.catalog import Transaction, open_catalog, schema
from vault.encoding import new_id
from vault.errors import AuditError, IntegrityError, OtherSchema
from vault.policy import Request

pytestmark = pytest.mark.both_catalogs
NOW = schema.SCHEMA_VERSION
NEXT = str(int(NOW) + 1)
#: Alters a table that others refer to, and adds one.
_REVISION = f"""
import os, signal
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{NEXT}", "{NOW}"


def upgrade():
    op.create_table("sketches", sa.Column("id", sa.String(32), primary_key=True))
    with op.batch_alter_table("holders", recreate="auto") as holders:
        holders.add_column(sa.Column("note", sa.String(64), nullable=False, server_default="none"))
        holders.alter_column("kms_key", type_=sa.String(4096), existing_type=sa.String(2048))
    MEANWHILE
"""


@pytest.fixture
def opened_url(tmp_path: Path, catalog_url: str | None) -> str:
    """The URL of a database without tables."""
    return postgres().make(catalog_url) if catalog_url else f"sqlite:///{tmp_path}/catalog.db"


@dataclass(frozen=True)
class Release:
    """The folder of a release's own revision, behind all that there are."""

    places: Path

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within it, this process is of that release."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vault.catalog.schema.SCHEMA_VERSION", NEXT)
            from vault.catalog import migrations

            patch.setattr("vault.catalog.migrations.PLACES", (*migrations.PLACES, self.places))
            yield


def _release(folder: Path, meanwhile: str = "pass") -> Release:
    places = folder / f"revisions-{new_id()[:6]}"
    places.mkdir()
    (places / "schema_next.py").write_text(_REVISION.replace("MEANWHILE", meanwhile))
    return Release(places)


@pytest.fixture
def newer(tmp_path: Path) -> Release:
    """The next release."""
    return _release(tmp_path)


def _tables(lab: Lab) -> dict[str, list[str]]:
    engine = create_engine(lab.vault.parts.catalog.url)
    try:
        found = inspect(engine)
        return {
            name: sorted(column["name"] for column in found.get_columns(name))
            for name in sorted(found.get_table_names())
        }
    finally:
        engine.dispose()


def _execute(lab: Lab, statement: str) -> Any:
    engine = create_engine(lab.vault.parts.catalog.url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return result.fetchall() if result.returns_rows else None
    finally:
        engine.dispose()


def _differences(connection: Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, schema.metadata))


def test_all_revisions_come_to_the_schema(opened_url: str) -> None:
    """The revisions, run from nothing, make exactly the tables of the schema."""
    from vault.catalog.migrations import migrate

    engine = create_engine(opened_url)
    with engine.begin() as connection:
        migrate(connection, None)
        assert connection.execute(text("select version_num from alembic_version")).scalar_one() == NOW
    with engine.connect() as connection:
        assert _differences(connection) == []
        connection.execute(text("drop table proofs"))
        assert _differences(connection), "the comparison finds what is missing"
    engine.dispose()


def test_a_new_vault_has_the_schema(lab: Lab) -> None:
    """A new vault is at the newest revision: there is nothing to upgrade, and nothing is written."""
    engine = create_engine(lab.vault.parts.catalog.url)
    with engine.connect() as connection:
        assert _differences(connection) == []
        assert connection.execute(text("select version_num from alembic_version")).scalar_one() == NOW
    engine.dispose()
    entries = lab.vault.audit_verify()
    done = vault.upgrade(lab.folder)
    assert (done.before, done.after) == (int(NOW),) * 2
    assert lab.vault.audit_verify() == entries


def test_an_older_vault_is_refused_until_it_is_upgraded(granted: Lab, newer: Release) -> None:
    """A newer release refuses an older vault in one sentence that names the command, as its owner and as a broker."""
    sentence = f"has schema {NOW}, and this release needs {NEXT}: run 'dsvault upgrade'"
    with newer.here():
        with pytest.raises(OtherSchema, match=sentence):
            vault.open(granted.folder)
        with pytest.raises(OtherSchema, match=sentence):
            deployment.open_broker(granted.folder)
        done = vault.upgrade(granted.folder)
        assert (str(done.before), str(done.after)) == (NOW, NEXT)
        parts, _ = deployment.open_broker(granted.folder)
        delivery = access.open_delivery(
            parts, Lab(granted.folder, vault.open(granted.folder)).caller(parts, "acme"), Request("evals")
        )
        assert sum(batch.num_rows for batch in delivery.batches) > 0


def test_an_upgrade_keeps_every_row_and_reference(granted: Lab, newer: Release) -> None:
    """Altering a table that others refer to loses no row of it or of them, and the references hold on."""
    before = {name: _execute(granted, f'select count(*) from "{name}"') for name in _tables(granted)}
    with newer.here():
        vault.upgrade(granted.folder)
    after = _tables(granted)
    assert "note" in after["holders"]
    assert "sketches" in after
    for name in before.keys() - {"log", "alembic_version"}:
        assert _execute(granted, f'select count(*) from "{name}"') == before[name], name
    engine = create_engine(granted.vault.parts.catalog.url)
    found = {key["referred_table"] for key in inspect(engine).get_foreign_keys("compartments")}
    engine.dispose()
    assert found == {"holders", "datasets"}


def test_an_upgrade_is_in_the_log(granted: Lab, newer: Release) -> None:
    """The log says from which schema to which, in the transaction that changed it, and verifies."""
    with newer.here():
        vault.upgrade(granted.folder)
        again = vault.upgrade(granted.folder)
        opened = vault.open(granted.folder)
        found = [entry.fields for _, entry in opened.audit_entries() if entry.kind is Kind.CATALOG_UPGRADED]
        opened.audit_verify()
    assert found == [{"before": int(NOW), "after": int(NEXT)}]
    assert (str(again.before), str(again.after)) == (NEXT, NEXT)


def test_a_vault_from_before_revisions_is_at_the_baseline(granted: Lab, newer: Release) -> None:
    """A vault that Alembic has never seen is upgraded from what its own number says."""
    _execute(granted, "drop table alembic_version")
    vault.open(granted.folder)
    with newer.here():
        vault.upgrade(granted.folder)
    assert _execute(granted, "select version_num from alembic_version") == [(NEXT,)]


@pytest.mark.parametrize(
    "meanwhile",
    ["raise OSError", "op.execute('select nothing from nowhere')", "op.execute('delete from datasets')"],
    ids=["an error of its own", "a statement that fails", "a row that others refer to is gone"],
)
def test_an_upgrade_that_fails_changes_nothing(granted: Lab, tmp_path: Path, meanwhile: str) -> None:
    """Whatever a revision fails at, the tables, their number and the log are as before."""
    before, entries = _tables(granted), granted.vault.audit_verify()
    with _release(tmp_path, meanwhile).here(), pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is
        vault.upgrade(granted.folder)
    assert _tables(granted) == before
    assert vault.open(granted.folder).audit_verify() == entries


def test_an_upgrade_that_is_killed_changes_nothing(granted: Lab, tmp_path: Path) -> None:
    """Killed when every table is changed and nothing committed, the vault is as before, and is upgraded next time."""
    before = _tables(granted)
    killed = _release(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    program = f"""
import sys
from pathlib import Path
import vault
from vault.catalog import migrations, schema
schema.SCHEMA_VERSION = "{NEXT}"
migrations.PLACES += (Path({str(killed.places)!r}),)
vault.upgrade({str(granted.folder)!r})
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -9
    assert _tables(granted) == before
    with _release(tmp_path).here():
        assert vault.upgrade(granted.folder).before == int(NOW)
        vault.open(granted.folder).audit_verify()


def test_two_upgrades_at_once_are_one(granted: Lab, newer: Release) -> None:
    """Of two upgrades one changes the catalog, and the other finds that it is done."""
    with newer.here(), ThreadPoolExecutor(2) as pool:
        start = threading.Barrier(2)

        def upgrade(_number: int) -> int:
            start.wait()
            return deployment.upgrade(granted.folder).before

        assert sorted(pool.map(upgrade, range(2))) == [int(NOW), int(NEXT)]


def test_an_upgrade_waits_for_a_write_that_is_under_way(granted: Lab, newer: Release) -> None:
    """A write that began before is whole in the older schema; none goes on across the upgrade."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        transaction = stack.enter_context(granted.vault.parts.catalog.write())
        with newer.here():
            upgrading = pool.submit(deployment.upgrade, granted.folder)
            time.sleep(0.5)
            assert not upgrading.done()
            assert transaction.schema() == NOW
            stack.close()
            assert str(upgrading.result(20).after) == NEXT


_OLDER = """
import sys, vault
from vault.audit import Kind
from vault.errors import AuditError
opened = vault.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    opened.parts.journal.record(Kind.REFUSED, reason="x")
    print("wrote")
except AuditError as error:
    print(error)
"""


def test_a_write_that_waits_for_an_upgrade_is_refused_behind_it(granted: Lab, newer: Release) -> None:
    """Whoever came while the upgrade had changed all and not committed looks at the number that it leaves."""
    with (
        newer.here(),
        subprocess.Popen(
            [sys.executable, "-c", _OLDER, str(granted.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as older,
    ):
        assert older.stdin is not None
        assert older.stdout is not None
        assert older.stdout.readline() == "ready\n"

        def then(transaction: Transaction, _before: str, _after: str) -> None:
            assert transaction.log_tail(to_move=True)
            older.stdin.write("\n")  # type: ignore[union-attr]
            older.stdin.flush()  # type: ignore[union-attr]
            time.sleep(1)

        catalog = open_catalog(granted.vault.parts.catalog.url)
        catalog.upgrade(granted.vault.parts.vault, then)
        catalog.close()
        assert "use the release that upgraded it" in older.stdout.readline()


def test_a_running_process_of_the_older_release_writes_nothing(granted: Lab, newer: Release) -> None:
    """A broker that was running when the catalog was upgraded serves nothing: it can write no entry."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    for each in (parts, granted.vault.parts):
        each.catalog.settle()  # what it still wrote within `here` would be the newer release's
    with newer.here():
        vault.upgrade(granted.folder)
    rows = _execute(granted, "select count(*) from log")
    with pytest.raises((AuditError, OtherSchema), match="use the release that upgraded it"):
        access.open_delivery(parts, caller, Request("evals"))
    assert _execute(granted, "select count(*) from log") == rows


def test_a_running_process_of_the_older_release_reads_nothing_within_a_second(granted: Lab, newer: Release) -> None:
    """The watch finds that the tables are another release's; from then on nothing is read, and no key is held."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    for batch in access.open_delivery(parts, caller, Request("evals")).batches:
        assert batch.num_rows
    watch = access.watch(parts)
    watch.look()
    assert parts.keyring.compartments
    with newer.here():
        vault.upgrade(granted.folder)
    watch.look()
    assert not parts.keyring.compartments
    with pytest.raises(OtherSchema, match="use the release that upgraded it"):
        access.offerings(parts, caller)


def test_a_newer_schema_is_refused(lab: Lab) -> None:
    """Neither opening nor upgrading takes a schema that only a newer release knows."""
    _execute(lab, f"update about set value = '{NEXT}' where name = 'schema'")
    sentence = f"has schema {NEXT}, and this release knows none above {NOW}"
    for act in (vault.open, vault.upgrade, deployment.open_broker):
        with pytest.raises(OtherSchema, match=sentence):
            act(lab.folder)


@pytest.mark.parametrize("found", ["4", "five", "-1", "0x5"])
def test_a_schema_that_nothing_upgrades_is_refused(lab: Lab, found: str) -> None:
    """A schema from before the baseline, or what is no number, is refused in a sentence and left alone."""
    _execute(lab, f"update about set value = '{found}' where name = 'schema'")
    for act in (vault.open, vault.upgrade):
        with pytest.raises(OtherSchema, match=r"older than any|does not say"):
            act(lab.folder)


def test_the_catalog_of_another_vault_is_not_upgraded(granted: Lab, newer: Release) -> None:
    """An upgrade looks whose catalog it is first."""
    _execute(granted, f"update about set value = '{new_id()}' where name = 'vault'")
    with newer.here(), pytest.raises(IntegrityError, match="another vault"):
        vault.upgrade(granted.folder)
    assert "sketches" not in _tables(granted)


def test_a_log_that_was_rolled_back_is_not_upgraded(granted: Lab, newer: Release) -> None:
    """Nothing is written behind a log that ends before a checkpoint in the store."""
    granted.vault.parts.journal.settle()
    note, edge = _execute(granted, "select note, edge from log_tail")[0]
    last = granted.vault.audit_verify()
    granted.vault.freeze("globex")
    engine = create_engine(granted.vault.parts.catalog.url)
    with engine.begin() as connection:
        connection.execute(text("delete from log where sequence > :last"), {"last": last})
        connection.execute(text("update log_tail set note = :note, edge = :edge"), {"note": note, "edge": edge})
    engine.dispose()
    with newer.here(), pytest.raises(IntegrityError, match="checkpoint"):
        vault.upgrade(granted.folder)
    assert "sketches" not in _tables(granted)


def test_a_vault_is_opened_without_alembic(lab: Lab) -> None:
    """Alembic is loaded to upgrade a vault and for nothing else."""
    program = (
        f"import sys, vault; vault.init({str(lab.folder.parent / 'other')!r});"
        f"v = vault.open({str(lab.folder)!r}); v.add_vendor('initech'); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_the_command_says_what_it_did(lab: Lab) -> None:
    """``dsvault upgrade`` says from which schema to which, with --json in a document."""
    command = [sys.executable, "-m", "vault_cli.main", "upgrade", "--vault", str(lab.folder)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said == f"the catalog has schema {NOW} already\n"
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert json.loads(told) == {"before": int(NOW), "after": int(NOW)}


def test_a_catalog_that_is_no_vaults_is_refused(opened_url: str) -> None:
    """A database without the tables is no catalog, and is left without them."""
    from vault.errors import Unavailable

    catalog = open_catalog(opened_url)
    with pytest.raises(Unavailable):
        catalog.upgrade("a" * 32, lambda *_: None)
    catalog.close()
