"""Database roles: the SQL that dsvault prints is run on a server, each part works with its role, and no more than that."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy.engine import make_url

import vault
from tests.conftest import Lab
from tests.integration.test_cli import dsvault
from tests.support.brokers import broker
from tests.support.log import acts
from tests.support.postgres import postgres
from tests.support.submitting import Desk, labels
from tests.support.tables import rows
from vault import access, deployment
from vault.catalog import schema
from vault.catalog.roles import AUDITOR, BROKER, OWNER_ROLE, RESPONDER, roles_sql
from vault.encoding import new_id
from vault.errors import IntegrityError, InvalidInput, LimitReached, NotFound, NotGranted, Unavailable, VaultError
from vault.policy import Request

_ACME = "dsvault_broker_acme"
_PARTS = (OWNER_ROLE, RESPONDER, BROKER, AUDITOR, _ACME)


@dataclass(frozen=True)
class Guarded:
    """A vault on PostgreSQL with roles, and a user of the database for each."""

    lab: Lab
    url: str

    def by(self, role: str) -> str:
        """The catalog's URL for a user who has this role and no other."""
        user = f"user_{new_id()[:8]}"
        with psycopg.connect(_plain(self.url), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {user} LOGIN IN ROLE {role}".encode())
        return make_url(self.url).set(username=user).render_as_string(hide_password=False)

    def configured(self, role: str) -> None:
        """Have every process that opens the vault from now on use a role's user."""
        url = self.by(role)
        for part in ("owner", "broker"):
            path = self.lab.folder / part / "config.toml"
            lines = path.read_text().splitlines()
            path.write_text(
                "\n".join(f'catalog = "{url}"' if line.startswith("catalog =") else line for line in lines) + "\n"
            )

    def run(self, sql: str) -> None:
        """As the owner of the tables."""
        with psycopg.connect(_plain(self.url), autocommit=True) as connection:
            connection.execute(sql.encode())


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def catalog_url() -> str:
    """Every lab of these tests is on PostgreSQL."""
    return postgres().unmade()


@pytest.fixture
def guarded(published: Lab, catalog_url: str) -> Guarded:
    """Both vendors with a grant, and the roles made by what the vault prints, run twice as after an upgrade."""
    columns = ["id", "prompt", "lang"]
    published.vault.grant("acme", "evals", columns, limits={"rows": 250}, expires=timedelta(days=1))
    published.vault.grant("globex", "evals", columns, expires=timedelta(days=1))
    found = Guarded(published, catalog_url)
    for _ in range(2):
        found.run(published.vault.catalog_roles({_ACME: ["acme"]}))
    published.vault.parts.catalog.settle()
    return found


@pytest.fixture
def connected(guarded: Guarded, request: pytest.FixtureRequest) -> Iterator[Callable[[str], psycopg.Connection]]:
    """Connections of users who have a role."""
    made: list[psycopg.Connection] = []

    def connect(role: str) -> psycopg.Connection:
        made.append(psycopg.connect(_plain(guarded.by(role)), autocommit=True))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def _refused(connection: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_every_table_has_a_place_in_the_roles() -> None:
    """A table that a later schema adds is given to somebody or kept from everybody, never forgotten."""
    found = roles_sql(new_id(), {})
    for table in schema.metadata.tables:
        assert f" ON {table} TO {AUDITOR};" in found


@pytest.mark.parametrize("role", [BROKER, _ACME])
def test_a_broker_serves_with_its_role(guarded: Guarded, role: str) -> None:
    """A broker of its role reads, leases, refuses, counts limits and proofs, announces keys and sees a freeze."""
    lab = guarded.lab
    lab.vault.grant("acme", "evals", ["score"], delivery="lease")
    guarded.configured(role)
    before = len(acts(lab.vault))
    with broker(lab.folder, *(["--vendors", "acme"] if role == _ACME else [])) as url:
        bound = lab.folder.parent / "bound.json"
        lab.vault.issue_credential("acme", endpoint=url).save(bound)
        dataset = vault.connect(bound).dataset("evals")
        granted = next(each.grant for each in dataset.grants if each.key == "id")
        sent = dataset.submit(labels(0), granted)
        for _ in range(2):
            assert dataset.to_arrow(columns=["id", "lang"]).num_rows == 100
        with pytest.raises(LimitReached):
            dataset.to_arrow(columns=["id", "lang"])
        assert dataset.to_arrow(columns=["score"], delivery="lease").num_rows == 100
        with pytest.raises((NotGranted, NotFound)):
            dataset.to_arrow(columns=["answer"])
        lab.vault.freeze("acme")
        time.sleep(1.1)  # a head may be a second old
        with pytest.raises(VaultError):
            dataset.to_arrow(columns=["score"])
    assert [each.id for each in lab.vault.submissions()] == [sent.id]
    kinds = [entry.kind.value for entry in acts(lab.vault)][before:]
    assert {"read begun", "read ended", "lease page handed out", "request refused"} <= set(kinds)
    assert any(entry.kind.value == "data keys opened" for _, entry in lab.vault.audit_entries())
    lab.vault.audit_verify()


def test_a_broker_sees_the_submissions_of_its_vendors_alone(
    guarded: Guarded, connected: Callable[[str], psycopg.Connection]
) -> None:
    """Nor can it put one of another vendor's into quarantine."""
    for vendor in ("acme", "globex"):
        Desk(guarded.lab, vendor).submit(labels(0))
    found = connected(_ACME).execute("SELECT vendor FROM submissions").fetchall()
    (acme,) = [each.id for each in guarded.lab.vault.vendors() if each.name == "acme"]
    assert found == [(acme,)]
    (globex,) = [each.id for each in guarded.lab.vault.vendors() if each.name == "globex"]
    _refused(
        connected(_ACME),
        f"INSERT INTO submissions SELECT '{globex}', '{new_id()}', \"grant\", dataset, object, size, envelope, received, "
        "state, settled, note FROM submissions",
    )


@pytest.mark.parametrize(
    "settled",
    ["'accepted', NULL, NULL", "'waiting', 'now', NULL", "'waiting', NULL, '\\x00'", "'rejected', 'now', '\\x00'"],
)
def test_a_broker_settles_no_submission(
    guarded: Guarded, connected: Callable[[str], psycopg.Connection], settled: str
) -> None:
    """What only the owner says of one it cannot put in with it either."""
    Desk(guarded.lab, "acme").submit(labels(0))
    columns = '"grant", dataset, object, size, envelope, received'
    copy = f"INSERT INTO submissions SELECT vendor, '{new_id()}', {columns}, {{}} FROM submissions"
    _refused(connected(_ACME), copy.format(settled))
    connected(_ACME).execute(copy.format("'waiting', NULL, NULL").encode())


def test_used_proofs_are_cleared_with_the_brokers_role(
    guarded: Guarded, connected: Callable[[str], psycopg.Connection]
) -> None:
    """A broker forgets proofs that are too old to be used, and none that could be used again."""
    guarded.run(
        "INSERT INTO proofs VALUES ('\\x01', '2020-01-01T00:00:00.000000Z'), ('\\x02', '2100-01-01T00:00:00.000000Z')"
    )
    assert connected(BROKER).execute("DELETE FROM proofs").rowcount == 1


_OF_NO_BROKER = [
    "UPDATE grants SET statement = '\\x00'",
    "DELETE FROM grants",
    "INSERT INTO grants SELECT * FROM grants",
    "UPDATE heads SET statement = '\\x00'",
    "DELETE FROM heads",
    "INSERT INTO heads SELECT subject, sequence + 1, kind, 1, statement, body FROM heads",
    "UPDATE keys SET wrapped = '\\x00'",
    "DELETE FROM keys",
    "INSERT INTO keys SELECT compartment, column_group, epoch + 1, key_id, kms_key, wrapped, created FROM keys",
    "UPDATE versions SET statement = '\\x00'",
    "DELETE FROM versions",
    "UPDATE credentials SET statement = '\\x00'",
    "DELETE FROM credentials",
    "UPDATE submissions SET state = 'accepted'",
    "DELETE FROM submissions",
    "UPDATE holders SET kms_key = 'x'",
    "UPDATE log SET sealed = '\\x00'",
    "DELETE FROM log",
    "DELETE FROM log_tail",
    "TRUNCATE log",
    "UPDATE about SET value = '99' WHERE name = 'schema'",
    "INSERT INTO roots VALUES (2, '\\x00')",
    "DELETE FROM roots",
    "DELETE FROM usage",
    "UPDATE usage SET day = '2020-01-01'",
    "UPDATE proofs SET until = '2020-01-01T00:00:00.000000Z'",
    "SELECT * FROM jobs",
    "SELECT * FROM steps",
    "ALTER TABLE grants DISABLE ROW LEVEL SECURITY",
    "DROP POLICY dsvault_lab ON grants",
    "CREATE TABLE mine (id int)",
    f"GRANT {OWNER_ROLE} TO CURRENT_USER",
    f"SET ROLE {OWNER_ROLE}",
    "DO $$ BEGIN LOCK TABLE about IN ACCESS EXCLUSIVE MODE; END $$",
]


@pytest.mark.parametrize("role", [BROKER, _ACME])
def test_a_broker_changes_no_grant_head_key_version_or_entry(
    connected: Callable[[str], psycopg.Connection], role: str
) -> None:
    """The server refuses a broker's user each statement that is none of a broker's."""
    connection = connected(role)
    for statement in _OF_NO_BROKER:
        _refused(connection, statement)


def test_a_row_behind_the_logs_end_is_told_for_what_it_is(
    guarded: Guarded, connected: Callable[[str], psycopg.Connection]
) -> None:
    """A broker's role can stop the log with an entry that nobody signed: the sentence says so, and not to try again."""
    lab = guarded.lab.vault
    lab.parts.journal.settle()
    behind = "SELECT max(sequence) + 1, max(time), 'x', decode(repeat('00', 32), 'hex') FROM log"
    connected(_ACME).execute(f"INSERT INTO log (sequence, time, sealed, hash) {behind}".encode())
    with pytest.raises(IntegrityError, match="behind the log's signed end, which nobody signed"):
        lab.freeze("acme")
    guarded.run("DELETE FROM log WHERE sealed = 'x'")
    lab.freeze("acme")
    assert lab.audit_verify()


def test_a_broker_of_one_vendor_sees_nothing_of_another(
    guarded: Guarded, connected: Callable[[str], psycopg.Connection]
) -> None:
    """Another vendor's keys, grants, credentials and heads, and the owner's, are not there for it; nor is their usage."""
    lab = guarded.lab
    ids = {state.name: state.id for state in lab.vault.vendors()}
    lab.vault.issue_credential("acme")
    lab.vault.issue_credential("globex")
    with psycopg.connect(_plain(guarded.url)) as all_:
        places = {holder: place for place, holder in all_.execute("SELECT id, holder FROM compartments")}
        total = {
            name: all_.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
            for name in ("keys", "grants", "heads")
        }
    connection = connected(_ACME)
    mine = {ids["acme"], places[ids["acme"]]}
    for table, column in (("holders", "id"), ("grants", "vendor"), ("credentials", "vendor")):
        assert connection.execute(f"SELECT DISTINCT {column} FROM {table}".encode()).fetchall() == [(ids["acme"],)], (
            table
        )
    for table, column in (("keys", "compartment"), ("heads", "subject")):
        assert {row[0] for row in connection.execute(f"SELECT {column} FROM {table}".encode())} == mine, table
    assert {row[0] for row in connection.execute("SELECT compartment FROM versions")} == {places[ids["acme"]]}
    assert total["keys"] != connection.execute("SELECT count(*) FROM keys").fetchone()
    (theirs,) = (state.grant.id for state in lab.vault.grants("globex"))
    guarded.run(f"INSERT INTO usage VALUES ('{theirs}', '2026-01-01', 1, 1, 1)")
    assert connection.execute("UPDATE usage SET rows = 0").rowcount == 0
    _refused(connection, f"INSERT INTO usage VALUES ('{theirs}', '2026-01-02', 0, 0, 0)")


def test_a_broker_of_all_vendors_sees_nothing_of_the_owners(
    guarded: Guarded, connected: Callable[[str], psycopg.Connection]
) -> None:
    """What no broker serves is not there for one either: the owner's wrapped keys, versions and heads."""
    owner = guarded.lab.vault.parts.owner
    with psycopg.connect(_plain(guarded.url)) as all_:
        (place,) = all_.execute("SELECT id FROM compartments WHERE holder = %s", (owner,)).fetchone() or ("",)
    connection = connected(BROKER)
    for table, column in (
        ("holders", "id"),
        ("keys", "compartment"),
        ("versions", "compartment"),
        ("heads", "subject"),
    ):
        found = {row[0] for row in connection.execute(f"SELECT {column} FROM {table}".encode())}
        assert found
        assert not found & {owner, place}, table


def test_a_responder_freezes_and_revokes_with_its_role(guarded: Guarded) -> None:
    """A responder's user may add what takes access away, and its entry, and the server refuses the rest."""
    lab = guarded.lab
    (state,) = lab.vault.grants("globex")
    guarded.configured(RESPONDER)
    (lab.folder / "owner" / "keys" / "authority.json").rename(lab.folder.parent / "authority.json")
    responder = vault.open(lab.folder)
    assert responder.freeze("acme")
    responder.revoke(state.grant.id)
    for act in (
        lambda: responder.rekey(vendor="acme"),
        lambda: responder.add_vendor("initech"),
        responder.gc,
    ):
        with pytest.raises(VaultError):
            act()
    opened = Lab(lab.folder, lab.vault)
    assert [vendor.name for vendor in opened.vault.vendors() if vendor.frozen] == ["acme"]
    assert opened.vault.grants("globex")[0].state != "live"
    lab.vault.audit_verify()


def test_a_responder_writes_nothing_but_removals(connected: Callable[[str], psycopg.Connection]) -> None:
    """A head as only the authority signs one, and whatever is no head, is refused to a responder's user."""
    connection = connected(RESPONDER)
    _refused(connection, "INSERT INTO heads SELECT subject, sequence + 100, kind, 1, statement, body FROM heads")
    connection.execute("INSERT INTO heads SELECT subject, sequence + 100, kind, 0, statement, body FROM heads")
    for statement in _OF_NO_BROKER:
        if not statement.startswith(("INSERT INTO heads", "SELECT")):
            _refused(connection, statement)


def test_an_auditor_reads_and_writes_nothing(guarded: Guarded, connected: Callable[[str], psycopg.Connection]) -> None:
    """An auditor's user verifies and reads the whole log, and the server refuses it every change."""
    count = guarded.lab.vault.audit_verify()
    guarded.configured(AUDITOR)
    auditor = vault.open(guarded.lab.folder)
    assert auditor.audit_verify() == count
    assert len(auditor.audit_entries()) == count
    with pytest.raises(Unavailable, match="its database role may not do that"):
        auditor.freeze("acme")
    connection = connected(AUDITOR)
    for statement in _OF_NO_BROKER:
        if not statement.startswith("SELECT"):
            _refused(connection, statement)
    for table in schema.metadata.tables:
        _refused(connection, f"DELETE FROM {table}")


def test_the_owners_commands_work_with_the_owners_role(guarded: Guarded) -> None:
    """Everything that is done to a vault day by day works as its role; what was signed and logged stays."""
    guarded.configured(OWNER_ROLE)
    lab = vault.open(guarded.lab.folder)
    lab.add_vendor("initech")
    lab.publish("evals", rows(5, start=100), append=True)
    grant = lab.grant("initech", "evals", ["id"], expires=timedelta(days=1))
    lab.issue_credential("initech")
    lab.rekey(vendor="acme")
    lab.rewrap("acme")
    lab.erase("evals", keys=[3])
    lab.revoke(grant.id)
    lab.expire("evals", 1)
    lab.contain("globex", bundle=guarded.lab.folder.parent / "bundle.zip")
    lab.offboard("globex")
    lab.gc(timedelta(0))
    assert lab.check().faults == []
    lab.delete("evals")
    lab.audit_verify()
    with psycopg.connect(_plain(guarded.by(OWNER_ROLE)), autocommit=True) as connection:
        for statement in (
            "DELETE FROM log",
            "UPDATE log SET time = ''",
            "DELETE FROM heads",
            "UPDATE roots SET version = 9",
            "DROP TABLE log",
        ):
            _refused(connection, statement)


def test_the_command_prints_what_can_be_run(guarded: Guarded) -> None:
    """``dsvault catalog roles`` prints the SQL, with --json in a document; a vendor that is none is named."""
    done = dsvault(
        "catalog", "roles", "--broker", f"{_ACME}=acme", "--vault", guarded.lab.folder, cwd=guarded.lab.folder
    )
    assert done.returncode == 0, done.stderr
    guarded.run(done.stdout)
    told = dsvault(
        "catalog", "roles", "--broker", f"{_ACME}=acme", "--json", "--vault", guarded.lab.folder, cwd=guarded.lab.folder
    )
    assert json.loads(told.stdout)["sql"].strip() == done.stdout.strip()
    done = dsvault("catalog", "roles", "--broker", "x=nobody", "--vault", guarded.lab.folder, cwd=guarded.lab.folder)
    assert (done.returncode, done.stderr) == (1, "dsvault: --broker: there is no vendor named 'nobody'\n")


@pytest.mark.parametrize("name", ["", "Upper", "a;drop table log", 'a"b', "a b", "1a", BROKER, "x" * 58])
def test_a_name_that_no_role_has_is_refused(name: str) -> None:
    """A role's name goes into the SQL, so it is of a few plain characters."""
    with pytest.raises(InvalidInput, match="--broker"):
        roles_sql(new_id(), {name: [new_id()]})


def test_ids_that_are_none_are_refused() -> None:
    """What is not an id is in no statement."""
    with pytest.raises(InvalidInput):
        roles_sql("' OR true --", {})
    with pytest.raises(InvalidInput):
        roles_sql(new_id(), {"some": ["x') OR ('' = '"]})


def test_a_file_has_no_roles(tmp_path: object) -> None:
    """On SQLite there is nobody to keep apart: the command says so."""
    from pathlib import Path

    lab = vault.init(Path(str(tmp_path)) / "lab")
    with pytest.raises(InvalidInput, match="SQLite"):
        lab.catalog_roles()


def test_a_broker_without_its_role_says_why(guarded: Guarded) -> None:
    """Whoever may read and not write serves nothing, and the error names the role and no statement."""
    parts = guarded.lab.broker_parts()
    caller = guarded.lab.caller(parts, "acme")
    guarded.configured(AUDITOR)
    parts, _ = deployment.open_broker(guarded.lab.folder)
    with pytest.raises(VaultError, match="its database role may not do that"):
        access.open_delivery(parts, caller, Request("evals", columns=("id",)))
