"""Mistakes at the command line, in the program's own process: one sentence each, that names what is at fault."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import vault
from tests.conftest import Lab
from tests.support.approving import protect
from tests.support.brokers import broker
from tests.support.tables import rows
from vault import access, grants
from vault.delegation import Link
from vault.encoding import new_id, utcnow
from vault.errors import Conflict, InvalidInput, NotFound, NotGranted, Refused, VaultError
from vault.policy import Request
from vault.trust import Role
from vault_cli.main import app


def _run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def _refused(*words: object, kind: type[VaultError] = InvalidInput) -> str:
    """The sentence of a command that is refused; nothing is on stdout."""
    done = _run(*words)
    assert isinstance(done.exception, kind), (done.exception, done.output)
    assert done.stdout == ""
    return str(done.exception)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """acme and globex, and evals with 40 rows of which acme may read three columns; tests here change nothing of it."""
    folder = tmp_path_factory.mktemp("mistakes")
    opened = vault.init(folder / "lab")
    opened.add_vendor("acme")
    opened.add_vendor("globex")
    opened.publish("evals", rows(40), key="id")
    opened.grant("acme", "evals", ["id", "prompt", "lang"])
    return Lab(folder / "lab", opened)


@pytest.fixture(scope="module")
def profile(place: Lab) -> Iterator[Path]:
    """acme's profile at a running broker."""
    with broker(place.folder) as endpoint:
        yield place.profile("acme", endpoint)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version", "0"), "has no version 0"),
        (("--version", "7"), "has no version 7"),
        (("--from", "yesterday"), "--from: 'yesterday' is neither a time such as 2026-12-01T08:00:00Z nor a duration"),
        (("--from", "2026-13-01T08:00:00Z"), "--from: .* is neither a time such as"),
        (("--from", "9999-12-31T23:59:59-14:00"), "--from: .* is beyond the times that can be written"),
        (("--where", ""), "--where: give exactly one condition"),
        (("--where", f"id = {'1' * 5000}"), "--where: the condition is longer than 4096 characters"),
        (("--columns", "id,,lang"), "--columns: 'id,,lang' has an empty name between its commas"),
        (("--columns", "id, ,lang"), "--columns: .* has an empty name"),
        (("--columns", "id,"), "--columns: .* has an empty name"),
        (("--columns", ""), "--columns: name at least one column"),
        (("--columns", ' , "'), "--columns: .* a double quote is not closed"),
    ],
)
def test_a_mistake_in_a_grant_names_the_option(place: Lab, words: tuple[str, ...], said: str) -> None:
    """And what it takes instead; nothing is granted."""
    before = len(place.vault.grants())
    given = ("grant", "acme", "evals", "--columns", "id", *words, "--vault", place.folder)
    assert re.search(said, _refused(*given, kind=VaultError))
    assert len(place.vault.grants()) == before


def test_names_that_hold_commas_and_quotes_are_read() -> None:
    """What is quoted may hold anything; the rest is split at commas."""
    from vault_cli.opening import split_names

    assert split_names('a, "b,c" ,d.e,"f""g",meta."x,y"') == ["a", "b,c", "d.e", 'f"g', 'meta."x,y"']


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "../datasets", "nothing"])
def test_what_is_no_name_of_a_dataset_is_not_granted(profile: Path, tmp_path: Path, name: str) -> None:
    """It would be another address of the broker's; the sentence is that of any other name."""
    for more in ((), ("-o", tmp_path / "x.csv")):
        said = _refused("fetch", name, "--profile", profile, *more, kind=NotGranted)
        assert said.startswith("no dataset or column of that name is granted to you")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--columns", ""), "--columns: name at least one column, and none twice"),
        (("--columns", ","), "--columns: name at least one column, and none twice"),
        (("--columns", "id,id"), "--columns: name at least one column, and none twice"),
        (("--where", ""), "--where: give exactly one condition"),
        (("--where", f"id = {'1' * 5000}"), "--where: the condition is longer than 4,096 characters"),
        (("--where", "id = 'x'"), "--where: "),
    ],
)
def test_a_mistake_in_a_fetch_names_the_option(
    profile: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """Whether the client finds it or the broker does, for a preview as for a file."""
    for more in ((), ("-o", tmp_path / "x.csv")):
        assert _refused("fetch", "evals", "--profile", profile, *words, *more).startswith(said)


def test_two_grants_that_would_each_do_name_the_option(published: Lab, tmp_path: Path) -> None:
    """The refusal says what to give, and with what."""
    with broker(published.folder) as endpoint:
        ids = sorted(published.vault.grant("globex", "evals", ["id"]).id for _ in range(2))
        fetch = ("fetch", "evals", "--profile", published.profile("globex", endpoint))
        for more in ((), ("-o", tmp_path / "x.csv")):
            said = _refused(*fetch, *more, kind=Conflict)
            assert said == f"--grant: more than one grant allows this; name one of them: {', '.join(ids)}"
        assert _run(*fetch, "--grant", ids[0]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --profile, or --endpoint and --token-file"),
        (("--profile", "p", "--endpoint", "u"), "--profile names the broker and the credential: leave out --endpoint"),
        (("--profile", "p", "--token-file", "t"), "--profile names the broker and the credential: leave out"),
        (("--endpoint", "u"), "--endpoint goes with --token-file: give that as well"),
        (("--token-file", "t"), "--token-file goes with --endpoint: give that as well"),
        (("--key", "k", "--endpoint", "u", "--token-file", "t"), "--key goes with --profile: tokens"),
    ],
)
def test_options_that_do_not_go_together_are_named(words: tuple[str, ...], said: str) -> None:
    """What is said fits what was given."""
    done = _run("fetch", "evals", *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("words", [("fetch",), ("delegate",), ("credential", "request")])
def test_a_vendors_commands_offer_no_vault_and_take_it(words: tuple[str, ...], tmp_path: Path) -> None:
    """A vendor has none; a script that gives it to every command goes on."""
    assert "--vault" not in _run(*words, "--help").stdout
    assert "--vault" in _run("credential", "issue", "--help").stdout
    done = _run("credential", "request", "-o", tmp_path / "r.json", "--vault", tmp_path / "none")
    assert (done.exit_code, (tmp_path / "r.json").exists()) == (0, True)
    for others in (("fetch", "evals", "--profile", "p"), ("delegate", "--profile", "p", "--to", "x", "-o", "y")):
        assert _run(*others, "--vault", tmp_path / "none").exit_code != 2


@pytest.mark.parametrize("limit", [-1, "3", True, 2.0, 2**63])
def test_a_limit_that_is_none_is_a_sentence(profile: Path, limit: Any) -> None:
    """In Python, where no command line looked at it before."""
    with pytest.raises(InvalidInput, match="^limit: give a whole number of rows, 0 to "):
        vault.connect(profile).open("evals").scan(limit=limit)


def test_a_preview_is_20_rows_with_json_too(profile: Path) -> None:
    """What is charged and held in memory is no more; it is said that there is more, unless a limit was asked for."""
    fetch = ("fetch", "evals", "--profile", profile)
    for more in ((), ("--json",)):
        done = _run(*fetch, *more)
        assert "the first 20 rows; -o FILE writes all of them" in done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 20
    done = _run(*fetch, "--json", "--limit", 30)
    assert (len(json.loads(done.stdout)["rows"]), done.stderr) == (30, "")
    assert _run(*fetch, "--limit", 3).stderr == ""


def test_a_profile_that_others_may_read_is_warned_of(profile: Path, tmp_path: Path) -> None:
    """It holds a secret; it is used all the same."""
    bare = tmp_path / "bare.json"
    bare.write_bytes(profile.read_bytes())
    bare.chmod(0o644)
    said = f"dsvault: {bare}: others may read or change this file, which holds a secret; run chmod 600 on it\n"
    done = _run("fetch", "evals", "--profile", bare, "--limit", 1)
    assert (done.exit_code, done.stderr) == (0, said)
    assert _run("delegate", "--profile", bare, "--to", "ann", "-o", tmp_path / "ann.json").stderr == said
    assert _run("fetch", "evals", "--profile", profile, "--limit", 1).stderr == ""


def test_a_vendor_that_is_not_there_is_said_before_anything_is_asked(place: Lab) -> None:
    """Nobody is asked to confirm the end of nothing."""
    assert "no vendor named 'nosuch'" in _refused(
        "vendor", "offboard", "nosuch", "--vault", place.folder, kind=NotFound
    )


def test_options_of_serve_are_named(place: Lab, tmp_path: Path) -> None:
    """The age of keys, the certificate's files, and names of vendors."""
    serve = ("serve", "--vault", place.folder, "--port", 0)
    assert _refused(*serve, "--key-age", "90s") == "--key-age: give 0s to 60s"
    assert _refused(*serve, "--vendors", ",").startswith("--vendors: name at least one vendor")
    none, junk = tmp_path / "none.pem", tmp_path / "junk.pem"
    junk.write_text("junk")
    both = ("--tls-cert", junk, "--tls-key", none)
    assert _refused(*serve, *both) == f"--tls-key: {none}: the file cannot be read (No such file or directory)"
    said = _refused(*serve, "--tls-cert", junk, "--tls-key", junk)
    assert said.startswith(f"--tls-cert, --tls-key: {junk} and {junk} are not a PEM certificate")


def test_a_delegation_ends_no_later_than_what_it_is_of(place: Lab, tmp_path: Path) -> None:
    """A longer one is cut to it, and that is said; of what has ended nothing is handed on."""
    own = tmp_path / "acme.json"
    issued = place.vault.issue_credential("acme", expires=timedelta(hours=2), endpoint="http://127.0.0.1:1")
    issued.save(own)
    words = ("delegate", "--profile", own, "--to", "ann", "--json", "-o")
    shorter = _run(*words, tmp_path / "shorter.json", "--expires", "1h")
    assert (shorter.exit_code, shorter.stderr) == (0, "")
    assert json.loads(shorter.stdout)["expires"] < issued.profile.expires
    longer = _run(*words, tmp_path / "longer.json", "--expires", "3h")
    said = f"{tmp_path / 'longer.json'} ends at {issued.profile.expires}, as your own access does"
    assert longer.stderr == f"dsvault: --expires: {said}\n"
    document = json.loads((tmp_path / "longer.json").read_text())
    assert document["expires"] == json.loads(longer.stdout)["expires"] == issued.profile.expires
    own.write_text(json.dumps(json.loads(own.read_text()) | {"expires": "2020-01-01T00:00:00.000000Z"}))
    assert "your own access ended at 2020" in _refused(*words, tmp_path / "late.json")


def test_ending_a_delegation_says_whether_it_was_ever_used(granted: Lab) -> None:
    """It ends in any case; one that the log has under another vendor is refused with that vendor's name."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    link = Link(new_id(), "ann", caller.expires, None, None, None, utcnow())
    for _ in access.open_delivery(parts, replace(caller, links=(link,)), Request("evals")).batches:
        pass
    vault_option, unused = ("--vault", granted.folder), new_id()
    used = _run("credential", "revoke", link.id, "--delegated-by", "acme", *vault_option)
    assert used.stdout == f"revoked {link.id}\n"
    other = _run("credential", "revoke", unused, "--delegated-by", "acme", *vault_option)
    assert other.stdout == (
        f"revoked {unused}\nno read of acme's under it is in the newest 10,000 entries of the log; check the id\n"
    )
    parts.heads.forget(caller.vendor)
    assert parts.heads.vendor(caller.vendor).ended == {link.id, unused}
    said = _refused("credential", "revoke", link.id, "--delegated-by", "globex", *vault_option, kind=NotFound)
    assert said.endswith("it needs --delegated-by acme")


def test_without_the_auditors_key_a_delegation_ends_all_the_same(granted: Lab) -> None:
    """Whoever is on call may have the responder's key alone; it is said that nothing was looked up."""
    for path in granted.vault.parts.signers.keys.files(Role.AUDITOR).values():
        path.unlink()
    words = ("credential", "revoke", new_id(), "--delegated-by", "acme", "--vault", granted.folder)
    assert "the auditor's key is not here" in _run(*words).stdout


def test_a_grant_that_was_cut_off_is_finished(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id alone; whatever else is given would be passed over, and is refused."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    settle: Callable[..., None] = grants._settle
    monkeypatch.setattr(grants, "_settle", killed)
    with pytest.raises(KeyboardInterrupt):
        published.vault.grant("acme", "evals", ["id"])
    monkeypatch.setattr(grants, "_settle", settle)
    (pending,) = published.vault.grants()
    assert pending.state == "pending"
    resume = ("grant", "--resume", pending.grant.id, "--vault", published.folder)
    for more in (("--columns", "lang"), ("--expires", "3d"), ("--version", 1)):
        assert _run(*resume, *more).exit_code == 2
    assert _run("grant", "acme", *resume[1:]).exit_code == 2
    assert _run("grant", "acme", "evals", "--vault", published.folder).exit_code == 2
    assert published.vault.grants()[0].state == "pending"
    told = json.loads(_run(*resume, "--json").stdout)
    assert (told["id"], told["state"], told["columns"]) == (pending.grant.id, "live", ["id"])
    assert published.vault.grants()[0].state == "live"
    assert "there is no grant" in _refused("grant", "--resume", new_id(), "--vault", published.folder, kind=NotFound)


def test_a_grant_that_waits_when_the_protection_ends_is_finished(published: Lab) -> None:
    """Once no approver is needed any more, the grant itself is all that is; the commands name the dataset."""
    protect(published, "evals")
    waiting = published.vault.grant("acme", "evals", ["id"])
    resume = ("grant", "--resume", waiting.id, "--vault", published.folder)
    assert "waits for 1 more signature" in _refused(*resume, kind=Refused)
    words = ("dataset", "protect", "evals", "--signers", 1, "--vault", published.folder)
    assert "grants on evals need 1 signature\n" in _run(*words).stdout
    assert _run(*resume).stdout == f"granted acme id of evals\ngrant {waiting.id}\n"
    assert published.vault.grants()[0].state == "live"
