"""What is PostgreSQL's own: one view, one writer, time-outs, a server that goes and comes back, and passwords."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

import vault
from tests.conftest import Lab
from tests.integration.test_cli import dsvault
from tests.support.postgres import Postgres, packaged, postgres, start
from tests.support.reading import read
from tests.support.servers import free_port
from tests.support.tables import rows
from vault import access, deployment
from vault.catalog import Catalog, Transaction, open_catalog, postgresql
from vault.catalog.sharing import Crossed, Uncertain
from vault.encoding import new_id
from vault.errors import Conflict, InvalidInput, Unavailable, VaultError
from vault.policy import Request

_PASSWORD = "correct-horse-battery"


@pytest.fixture
def catalog_url() -> str:
    """Every lab of these tests is on PostgreSQL."""
    return postgres().unmade()


@pytest.fixture
def catalog(lab: Lab) -> Catalog:
    """The catalog of a lab, whose log has an end that writers take turns at."""
    return lab.vault.parts.catalog


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Postgres]:
    """A server of this test's own, to be stopped."""
    yield from start()


@contextlib.contextmanager
def _stranger(catalog: Catalog) -> Iterator[psycopg.Connection]:
    """A connection of somebody who keeps to no rule of dsvault's."""
    plain = make_url(catalog.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        yield connection


def _number(transaction: Transaction) -> int:
    return int(transaction.connection.execute(text("select count(*) from proofs")).scalar_one())


def _use(transaction: Transaction) -> bool:
    return transaction.use_proof(
        bytes.fromhex("ff" + new_id()), "2100-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000000Z"
    )


def test_a_read_is_one_view(catalog: Catalog) -> None:
    """What commits while a read goes on is not seen by its later statements."""
    with catalog.read() as reading:
        before = _number(reading)
        catalog.submit(_use)
        assert _number(reading) == before
    with catalog.read() as reading:
        assert _number(reading) == before + 1


def test_a_read_changes_nothing(catalog: Catalog) -> None:
    """The server refuses a change within a read."""
    with pytest.raises(Unavailable), catalog.read() as reading:
        _use(reading)


def test_there_is_one_writer_at_a_time(catalog: Catalog) -> None:
    """What a write has looked at does not change before it ends, however long others have been waiting."""
    found: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        with catalog.write() as writing:
            before = _number(writing)
            other = pool.submit(lambda: catalog.submit(_use))
            time.sleep(0.3)
            found.append(_number(writing))
            assert not other.done()
        assert other.result(10)
    assert found == [before]


def test_a_writer_that_waits_too_long_is_told(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the time to wait is over there is one sentence, and nothing was changed."""
    monkeypatch.setattr(postgresql, "BUSY_SECONDS", 0.3)
    with catalog.write() as first:
        before = _number(first)
        with pytest.raises(Unavailable, match="another process does not let go of it"), catalog.write() as second:
            _use(second)
    with catalog.read() as reading:
        assert _number(reading) == before


def test_a_writer_that_does_nothing_is_sent_away(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stops within a change keeps the others waiting for no longer than a minute; its change is undone."""
    monkeypatch.setattr(postgresql, "_IDLE_SECONDS", 1)
    with catalog.read() as reading:
        before = _number(reading)

    def stop() -> None:
        with catalog.write() as stopped:
            _use(stopped)
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(lambda: catalog.submit(_use)).result(20)
            _number(stopped)

    with pytest.raises(Unavailable):
        stop()
    with catalog.read() as reading:
        assert _number(reading) == before + 1


def test_a_change_that_the_database_ends_is_made_again(lab: Lab, catalog: Catalog) -> None:
    """Of two sessions that wait for each other PostgreSQL ends one; a submitted change is simply made again."""
    acme = next(vendor.id for vendor in lab.vault.vendors() if vendor.name == "acme")
    tried: list[int] = []

    def change(transaction: Transaction) -> None:
        tried.append(1)
        transaction.connection.execute(text("update holders set created = created where id = :id"), {"id": acme})

    with _stranger(catalog) as stranger, ThreadPoolExecutor(1) as pool:
        stranger.execute("select * from holders for update")
        waiting = pool.submit(lambda: catalog.submit(change))
        while not tried:
            time.sleep(0.01)
        time.sleep(0.2)  # it waits for the row by now, and will look for a deadlock before the stranger does
        stranger.execute("set deadlock_timeout = '30s'")
        stranger.execute("select * from log_tail for update")
        stranger.commit()
        waiting.result(20)
    assert len(tried) == 2


def test_a_change_that_the_database_ends_is_a_conflict_to_whoever_cannot_repeat_it(lab: Lab, catalog: Catalog) -> None:
    """A block of statements is not run again: it is told that another change came first."""
    with _stranger(catalog) as stranger, ThreadPoolExecutor(1) as pool:
        stranger.execute("select * from holders for update")
        begun = threading.Event()

        def write() -> None:
            with catalog.write() as writing:
                begun.set()
                writing.connection.execute(text("update holders set created = created"))

        waiting = pool.submit(write)
        assert begun.wait(10)
        time.sleep(0.2)
        stranger.execute("set deadlock_timeout = '30s'")
        stranger.execute("select * from log_tail for update")
        stranger.commit()
        with pytest.raises(Conflict, match="another change to the catalog came first; try again") as raised:
            waiting.result(20)
        assert isinstance(raised.value, Crossed)


def test_a_commit_whose_end_nobody_knows_is_not_repeated(catalog: Catalog) -> None:
    """With the connection lost at the very commit the change may have been made: it is told so and not made twice."""
    tried: list[int] = []

    def change(transaction: Transaction) -> None:
        tried.append(1)
        _use(transaction)

    def lose(connection: object) -> None:
        backend = connection.connection.driver_connection.info.backend_pid  # type: ignore[attr-defined]
        with _stranger(catalog) as stranger:
            stranger.execute("select pg_terminate_backend(%s, 5000)", (backend,))

    event.listen(catalog._engine, "commit", lose)
    told: list[BaseException] = []
    try:
        catalog.submit_soon(change, told.append)
        with pytest.raises(Uncertain, match="it may have been made, or not"):
            catalog.submit(change)
    finally:
        event.remove(catalog._engine, "commit", lose)
    assert len(tried) == 2
    assert [type(each) for each in told] == [Uncertain]
    assert catalog.submit(_use)


@pytest.mark.parametrize("how", ["immediate", "fast"])
def test_a_broker_outlives_its_database(tmp_path: Path, own: Postgres, how: str) -> None:
    """While the server is gone there is one sentence and no row; once it is back the same broker serves."""
    opened = vault.init(tmp_path / "lab", catalog=own.database())
    opened.add_vendor("acme")
    opened.publish("evals", rows(10))
    opened.grant("acme", "evals", ["id"], expires=timedelta(days=1))
    lab = Lab(tmp_path / "lab", opened)
    parts = lab.broker_parts()
    caller = lab.caller(parts, "acme")
    assert read(parts, caller).num_rows == 10
    watch = access.watch(parts)
    watch.look()
    own.stop(how)
    watch.look()
    assert not parts.keyring.compartments, "nobody can see whether a vendor was stopped"
    with pytest.raises(VaultError, match="the catalog could not be read or written") as raised:
        read(parts, caller)
    assert "\n" not in str(raised.value)
    assert "the catalog" in access.missing(parts)
    own.run()
    assert read(parts, caller).num_rows == 10
    assert access.missing(parts) == []
    parts.journal.settle()
    assert opened.audit_verify() == len(opened.audit_entries())


def test_the_package_brings_a_server(tmp_path: Path) -> None:
    """Where the machine has no PostgreSQL the tests have the package's, and a vault works on its release too."""
    servers = start(packaged())
    server = next(servers)
    try:
        opened = vault.init(tmp_path / "lab", catalog=server.database())
        opened.add_vendor("acme")
        opened.publish("evals", rows(10))
        opened.grant("acme", "evals", ["id"], expires=timedelta(days=1))
        lab = Lab(tmp_path / "lab", opened)
        parts = lab.broker_parts()
        assert read(parts, lab.caller(parts, "acme")).num_rows == 10
        assert opened.audit_verify()
    finally:
        next(servers, None)


def test_a_forked_process_has_connections_of_its_own(lab: Lab) -> None:
    """A process that is forked neither uses nor closes what its parent has open."""
    program = f"""
import os, vault
catalog = vault.open({str(lab.folder)!r}).parts.catalog
def vendors():
    with catalog.read() as transaction:
        return len(transaction.holders())
assert vendors() == 3
child = os.fork()
if child == 0:
    os._exit(0 if all(vendors() == 3 for _ in range(50)) else 1)
assert all(vendors() == 3 for _ in range(50))
assert os.waitpid(child, 0)[1] == 0
assert vendors() == 3
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://lab:{_PASSWORD}@127.0.0.1:{{port}}/lab",
        f"postgresql+psycopg://lab:{_PASSWORD}@127.0.0.1:{{port}}/lab?sslmode=verify-full",
        f"postgresql+psycopg://lab:{_PASSWORD}@127.0.0.1:{{port}}/lab?prepare_threshold=some",
        f"postgresql+psycopg://lab:{_PASSWORD}@127.0.0.1:{{port}}/lab?no_such_option=1",
        f"postgresql+psycopg://lab:{_PASSWORD}@127.0.0.1:port/lab",
        f"postgresql+pg8000://lab:{_PASSWORD}@127.0.0.1:{{port}}/lab",
        f"mysql://lab:{_PASSWORD}@127.0.0.1:{{port}}/lab",
    ],
)
def test_a_password_in_the_url_is_not_told(tmp_path: Path, url: str) -> None:
    """Neither a sentence, nor a traceback, nor a repr says the password of a catalog that cannot be opened."""
    url = url.format(port=free_port())
    done = dsvault("init", "lab", "--catalog", url, cwd=tmp_path, environment={"DSVAULT_DEBUG": "1"})
    assert done.returncode == 1
    assert _PASSWORD not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    with pytest.raises(VaultError) as raised:
        vault.init(tmp_path / "other", catalog=url)
    told = "".join(traceback.format_exception(raised.value))
    assert _PASSWORD not in told


def test_why_nobody_is_let_in_is_told(tmp_path: Path, own: Postgres) -> None:
    """A wrong password, user, database, address or option is told apart, and what the server said is not passed on."""
    data = own.folder / "data" / "pg_hba.conf"
    before = data.read_text()
    with psycopg.connect(own.url().replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE ROLE keyed LOGIN PASSWORD 'right'")
        data.write_text("host all keyed 127.0.0.1/32 scram-sha-256\n" + before)
        connection.execute("SELECT pg_reload_conf()")
    place = f"127.0.0.1:{own.port}/postgres"
    for url, sentence in (
        (f"keyed:{_PASSWORD}@{place}", "the database refuses the user or the password"),
        (f"keyed@{place}", "the database asks for a password, and none was given"),
        (f"nobody-here@{place}", "there is no such user or database"),
        (f"postgres@127.0.0.1:{own.port}/nowhere", "there is no such user or database"),
        (f"postgres@127.0.0.1:{free_port()}/postgres", "nothing answers at the database's address"),
        (f"postgres@{place}?sslmode=require", "the database's server and sslmode do not agree on TLS"),
        (f"postgres@{place}?sslmde=require", "the URL of the catalog has an option that libpq does not know"),
    ):
        with pytest.raises(VaultError) as raised:
            vault.init(tmp_path / "lab", catalog=f"postgresql+psycopg://{url}")
        assert str(raised.value) == f"the catalog could not be read or written: {sentence}"
        assert not (tmp_path / "lab").exists()


def test_a_password_is_in_no_repr(tmp_path: Path) -> None:
    """What holds the URL does not show its password."""
    url = f"postgresql+psycopg://lab:{_PASSWORD}@127.0.0.1:{free_port()}/lab"
    catalog = open_catalog(url)
    configuration = deployment.Configuration("v", "store", url, "local:", "http://127.0.0.1:1", "f", None)
    assert _PASSWORD not in repr(catalog) + repr(configuration)
    assert _PASSWORD in catalog.url
    assert _PASSWORD in configuration.text()


@pytest.mark.parametrize(("given", "meant"), [("none", None), ("0", 0), ("7", 7)])
def test_prepared_statements_are_as_the_url_says(lab: Lab, catalog: Catalog, given: str, meant: int | None) -> None:
    """A pooler that hands each transaction to another connection may need them off, which the URL can say."""
    found = open_catalog(f"{catalog.url}?prepare_threshold={given}")
    with found.read() as reading:
        assert reading.connection.connection.driver_connection.prepare_threshold == meant  # type: ignore[union-attr]
    found.close()
    with pytest.raises(InvalidInput, match="prepare_threshold"):
        open_catalog(f"{catalog.url}?prepare_threshold=-1")


def test_nothing_is_told_to_a_connection_beyond_its_transaction(catalog: Catalog) -> None:
    """A pooler may hand the connection to somebody else after each transaction: no setting is left behind on it."""
    catalog.submit(_use)
    with catalog._engine.connect() as connection:
        found = {
            name: connection.execute(text(f"show {name}")).scalar_one()
            for name in ("lock_timeout", "idle_in_transaction_session_timeout", "transaction_read_only")
        }
    assert found == {"lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "transaction_read_only": "off"}


def test_a_stream_goes_on_while_others_write(lab: Lab) -> None:
    """A read of many batches holds no lock that a writer would wait for."""
    lab.vault.publish("evals", rows(100), shard_rows=10)
    lab.vault.grant("acme", "evals", ["id"], expires=timedelta(days=1))
    parts = lab.broker_parts()
    batches = access.open_delivery(parts, lab.caller(parts, "acme"), Request("evals")).batches
    assert next(batches).num_rows
    started = time.monotonic()
    lab.vault.add_vendor("initech")
    assert time.monotonic() - started < 20
    assert sum(batch.num_rows for batch in batches)


def _certificate(folder: Path, owner: int) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, where the server looks for them."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    )
    for path in (folder / "server.crt", folder / "server.key"):
        os.chown(path, owner, -1)
        path.chmod(0o600)
    return folder / "server.crt"


def test_tls_and_a_password_file_are_as_libpq_has_them(tmp_path: Path, own: Postgres) -> None:
    """The URL says how to verify the server, and the password comes from a file; a wrong one of either is one sentence."""
    data = own.folder / "data"
    certificate = _certificate(data, data.stat().st_uid)
    kept = tmp_path / "ca.pem"
    kept.write_bytes(certificate.read_bytes())
    with psycopg.connect(own.url().replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE lab LOGIN PASSWORD '{_PASSWORD}'".encode())
        connection.execute("CREATE DATABASE lab OWNER lab")
        connection.execute("ALTER SYSTEM SET ssl = on")
        (data / "pg_hba.conf").write_text("hostssl lab lab 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    url = f"postgresql+psycopg://lab@127.0.0.1:{own.port}/lab"
    passes = tmp_path / "passes"
    passes.write_text(f"127.0.0.1:{own.port}:lab:lab:{_PASSWORD}\n")
    passes.chmod(0o600)
    environment = {"PGPASSFILE": str(passes)}
    good = f"{url}?sslmode=verify-full&sslrootcert={kept}"
    done = dsvault("init", "lab", "--catalog", good, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert _PASSWORD not in (tmp_path / "lab" / "owner" / "config.toml").read_text()
    assert dsvault("vendor", "list", "--vault", "lab", cwd=tmp_path, environment=environment).returncode == 0
    other = tmp_path / "other.pem"
    (tmp_path / "elsewhere").mkdir()
    other.write_bytes(_certificate(tmp_path / "elsewhere", os.geteuid()).read_bytes())
    for name, wrong, passwords in (
        ("a", f"{url}?sslmode=verify-full&sslrootcert={other}", passes),
        ("b", f"{url}?sslmode=disable", passes),
        ("c", good, tmp_path / "none"),
    ):
        done = dsvault("init", name, "--catalog", wrong, cwd=tmp_path, environment={"PGPASSFILE": str(passwords)})
        assert done.returncode == 1
        assert done.stderr.startswith("dsvault: the catalog could not be")
        assert not (tmp_path / name).exists()
        assert len(done.stderr.strip().splitlines()) == 1
