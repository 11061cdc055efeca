"""A real broker and the commands on both sides: what a vendor and the owner type, and what comes over the wire."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.program import dsvault
from tests.support.submitting import Desk, joined, labels, split
from tests.support.tables import rows
from vault.encoding import new_id
from vault.errors import InvalidInput, Unavailable
from vault.proof import ProofKey
from vault.wire import SUBMISSION_TYPE, Profile

_BOUNDS = {"DSVAULT_SUBMISSIONS_MOST_BYTES": "8000000"}


@dataclass
class Served:
    """A broker over a vault, and acme's profile for it."""

    lab: Lab
    url: str
    path: Path

    @property
    def profile(self) -> Profile:
        """What is in the file."""
        return Profile.parse(self.path.read_bytes(), "the profile")

    def headers(self, path: str, **more: str) -> dict[str, str]:
        """Those of one request, with its proof."""
        profile = self.profile
        key = ProofKey.parse(profile.key, "the profile")
        proof = key.prove("POST", self.url + path, profile.token.text, self.lab.vault.parts.clock())
        known = {"Authorization": profile.token.header(), "DPoP": proof, "Content-Type": SUBMISSION_TYPE}
        return {**known, **more}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests here: each sends labels of its own."""
    folder = tmp_path_factory.mktemp("submitting") / "lab"
    lab = Lab(folder, vault.init(folder))
    lab.vault.add_vendor("acme")
    lab.vault.publish("evals", rows(100), key="id", shard_rows=30)
    lab.vault.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    with broker(folder, environment=_BOUNDS) as url:
        yield Served(lab, url, lab.profile("acme", url))


@pytest.fixture
def body(served: Served) -> bytes:
    """A good body for that broker, which was not sent."""
    dataset = vault.connect(served.path).dataset("evals")
    kept: list[bytes] = []
    honest = dataset.client.connection.answer

    def answer(method: str, path: str, body: bytes | None = None, kind: str = "") -> dict[str, Any]:
        if body is None:
            return honest(method, path)
        kept.append(body)
        raise InvalidInput("kept")

    dataset.client.connection.answer = answer  # type: ignore[method-assign]
    with pytest.raises(InvalidInput, match="kept"):
        dataset.submit(labels(0))
    return kept[0]


def _post(served: Served, body: bytes, name: str = "evals", **headers: str) -> urllib3.BaseHTTPResponse:
    path = f"/v1/datasets/{name}/submissions"
    return urllib3.request("POST", served.url + path, body=body, headers=served.headers(path, **headers), retries=False)


def test_labels_go_there_and_come_back(served: Served) -> None:
    """By the Python client over HTTP, in some hundred pieces."""
    many = labels(*range(0, 100, 2), label=[f"{number:050}" for number in range(50)])
    done = vault.connect(served.path).dataset("evals").submit(many)
    (state,) = [each for each in served.lab.vault.submissions() if each.id == done.id]
    assert (state.rows, state.size, state.received) == (50, done.size, done.received)
    assert served.lab.vault.submission(done.id).table.equals(many)
    served.lab.vault.reject_submission(done.id, "a test")


def test_the_same_body_counts_once(served: Served, body: bytes) -> None:
    """A client that lost the answer sends it again, and gets the same one."""
    first, second = _post(served, body), _post(served, body)
    assert (first.status, second.status) == (200, 200)
    assert first.json() == second.json()
    found = first.json()["submission"]
    assert [each.id for each in served.lab.vault.submissions()].count(found) == 1
    served.lab.vault.reject_submission(found, "a test")


def test_a_long_body_that_is_there_already_is_answered_too(served: Served) -> None:
    """The broker needs none of it the second time, and takes it all the same: the client is still sending."""
    import os

    dataset = vault.connect(served.path).dataset("evals")
    honest, sent = dataset.client.connection.answer, []

    def answer(method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> dict[str, Any]:
        if body is not None:
            sent.append(honest(method, path, body, kind))
        return honest(method, path, body, kind)

    dataset.client.connection.answer = answer  # type: ignore[method-assign]
    done = dataset.submit(labels(6, label=[os.urandom(6_000_000)]))
    assert [each["submission"] for each in sent] == [done.id]
    served.lab.vault.reject_submission(done.id, "a test")


def test_a_request_that_was_seen_cannot_be_sent_again(served: Served, body: bytes) -> None:
    """Its proof is used up, also by one that was refused."""
    path = "/v1/datasets/evals/submissions"
    for sent, status in ((body[:-1], 400), (body, 200)):
        headers = served.headers(path)
        answers = [urllib3.request("POST", served.url + path, body=sent, headers=headers) for _ in range(2)]
        assert [each.status for each in answers] == [status, 401]
    served.lab.vault.reject_submission(answers[0].json()["submission"], "a test")


def test_without_a_credential_nothing_is_taken(served: Served, body: bytes) -> None:
    """Whatever the body is."""
    answer = _post(served, body, Authorization="Bearer dsv1.x")
    assert answer.status == 401


@pytest.mark.parametrize(
    ("sent", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"x" * 8_000_001, {}, 413),
        (b"", {}, 400),
        (b"\x00\x00", {}, 400),
        (struct.pack(">I", 5000) + b"x" * 5000, {}, 400),
        (struct.pack(">I", 4) + b"\xff\xff\xff\xff", {}, 400),
        (joined("not.a.jws", b"data"), {}, 400),
    ],
)
def test_what_is_no_submission_is_refused_in_a_sentence(
    served: Served, sent: bytes, headers: dict[str, str], status: int
) -> None:
    """Of another type, too long, cut off, or with an envelope that is none."""
    before = len(served.lab.vault.submissions())
    answer = _post(served, sent, **headers)
    assert answer.status == status
    assert set(answer.json()) == {"type", "title", "detail"}
    assert len(served.lab.vault.submissions()) == before


def test_only_submissions_may_be_long(served: Served) -> None:
    """What asks for rows is bounded as before."""
    path = "/v1/datasets/evals/read"
    headers = {**served.headers(path), "Content-Type": "application/json"}
    answer = urllib3.request("POST", served.url + path, body=b" " * 70_000, headers=headers)
    assert answer.status == 413


def test_a_refused_vendor_reads_why_whatever_it_has_sent(served: Served, body: bytes) -> None:
    """A long body that is not read is passed over, so that the answer arrives."""
    envelope, data = split(body)
    answer = _post(served, joined(envelope, data + bytes(7_000_000)))
    assert (answer.status, answer.json()["detail"]) == (400, "the envelope is of another vault, or of another body")


def test_one_that_is_too_large_is_told_before_it_is_sent(served: Served) -> None:
    """The broker says what it takes."""
    import os

    dataset = vault.connect(served.path).dataset("evals")
    with pytest.raises(InvalidInput, match=r"and the lab takes 8,000,000 at once: send it in parts"):
        dataset.submit(labels(0, label=[os.urandom(9_000_000)]))


def test_a_lost_answer_is_asked_for_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the broker took it: the client sends the same again, and it is there once."""
    dataset = vault.connect(served.path).dataset("evals")
    honest, lost = dataset.client.connection.answer, []

    def answer(method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> dict[str, Any]:
        found = honest(method, path, body, kind)
        if body is not None and not lost:
            lost.append(found["submission"])
            raise Unavailable("the connection was closed without a whole answer")
        return found

    monkeypatch.setattr(dataset.client.connection, "answer", answer)
    done = dataset.submit(labels(2))
    assert lost == [done.id]
    assert [each.id for each in served.lab.vault.submissions()].count(done.id) == 1
    served.lab.vault.reject_submission(done.id, "a test")


def _json(lab: Lab, *command: str) -> Any:
    found = dsvault(*command, "--vault", str(lab.folder), "--json")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_the_commands_of_both_sides(served: Served, tmp_path: Path) -> None:
    """`submit`, and `submissions list`, `show`, `accept` and `reject`, from files of three formats."""
    lab = served.lab
    sent = labels(10, 12)
    pq.write_table(sent, tmp_path / "labels.parquet")
    (tmp_path / "labels.jsonl").write_text('{"id": 14, "label": "x"}\n')
    (tmp_path / "labels.csv").write_text("id,label\n16,=1+1\n")
    made = []
    for name in ("labels.parquet", "labels.jsonl", "labels.csv"):
        found = dsvault("submit", "evals", str(tmp_path / name), "--profile", str(served.path), "--json")
        assert found.returncode == 0, found.stderr
        made.append(json.loads(found.stdout)["id"])
    listed = {each["id"]: each for each in _json(lab, "submissions", "list", "--vendor", "acme")["submissions"]}
    assert [listed[each]["rows"] for each in made] == [2, 1, 1]
    shown = _json(lab, "submissions", "show", made[0])
    assert (shown["problem"], shown["first_rows"]) == (None, sent.to_pylist())
    assert "=1+1" in dsvault("submissions", "show", made[2], "--vault", str(lab.folder)).stdout
    taken = _json(lab, "submissions", "accept", made[0], "--rename", "label=verdict")
    assert (taken["columns"], taken["rows"]) == (["verdict"], 2)
    merged = _json(lab, "submissions", "accept", made[1], "--rename", "label=verdict", "--merge")
    assert merged["version"] == taken["version"] + 1
    assert _json(lab, "submissions", "reject", made[2], "--reason", "a formula")["state"] == "rejected"
    again = dsvault("submissions", "accept", made[2], "--vault", str(lab.folder))
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)


def test_all_that_waits_is_rejected_by_one_command(served: Served) -> None:
    """Of the vendor that is named; without a name, or beside an id, it is refused as a mistake of usage."""
    lab = served.lab
    sent = {Desk(lab).submit(labels(20)), Desk(lab).submit(labels(22))}
    for wrong in (("--all",), ("--all", "0" * 32, "--vendor", "acme"), ("--vendor", "acme")):
        found = dsvault("submissions", "reject", *wrong, "--reason", "no", "--vault", str(lab.folder))
        assert (found.returncode, found.stdout) == (2, ""), wrong
    done = _json(lab, "submissions", "reject", "--all", "--vendor", "acme", "--reason", "a breach")["submissions"]
    assert sent <= {each["id"] for each in done if each["state"] == "rejected"}
    again = dsvault(
        "submissions", "reject", "--all", "--vendor", "acme", "--reason", "a breach", "--vault", str(lab.folder)
    )
    assert (again.returncode, again.stdout) == (0, "rejected 0 submissions of acme\n")


def test_a_row_that_no_broker_writes_is_shown_beside_the_others(served: Served) -> None:
    """It is in doubt, and says by which id and why it is not accepted; no character of it acts on a terminal."""
    lab = served.lab
    true, odd = Desk(lab).submit(labels(24)), new_id()
    with lab.vault.parts.catalog.write() as transaction:
        (row,) = transaction.submissions(submission=true)
        transaction.add_submission(replace(row, id=odd, received="\x1b[2J", object=f"submissions/{odd}"))
    found = dsvault("submissions", "list", "--vault", str(lab.folder))
    assert found.returncode == 0, found.stderr
    lines = {line.split()[0]: line for line in found.stdout.splitlines()}
    assert "waiting; in doubt: it was received at no time" in lines[odd]
    assert lines[true].rstrip().endswith("waiting")
    assert "\x1b" not in found.stdout
    for command in ("show", "accept"):
        refused = dsvault("submissions", command, odd, "--vault", str(lab.folder))
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert f"the submission {odd} does not say when it was received" in refused.stderr
    for identity in (odd, true):
        assert _json(lab, "submissions", "reject", identity, "--reason", "a test")["state"] == "rejected"


def test_whatever_was_sent_can_be_looked_at(served: Served) -> None:
    """Names act on no terminal, and values that Python has no form for are told, and keep nothing else from view."""
    lab, odd = served.lab, "a\x1b[2J\u202e[red]\nb"
    sent = {
        "id": pa.array([0], pa.int64()),
        odd: pa.array(["beside"]),
        "day": pa.array([2**31 - 1], pa.date32()),
        "long": pa.array([2**62], pa.duration("s")),
        "zone": pa.array([1], pa.timestamp("us", "No/Zone")),
    }
    identity = Desk(served.lab).smuggle(pa.table(sent))
    found = dsvault("submissions", "show", identity, "--vault", str(lab.folder))
    assert found.returncode == 0, found.stderr
    assert all(character.isprintable() for character in found.stdout.replace("\n", ""))
    for text in ("a·[2J·[red]·b", "beside", "a value of date32[day] that cannot be shown"):
        assert text in "".join(found.stdout.split("\n")), text
    keys = pa.map_(pa.struct([("\x1b[2J", pa.int8())]), pa.int8())
    other = Desk(lab).smuggle(pa.table({"id": pa.array([0], pa.int64()), "label": pa.array([None], keys)}))
    refused = dsvault("submissions", "accept", other, "--vault", str(lab.folder))
    assert "has maps with keys of the type struct<·[2J: int8>" in refused.stderr
    assert "\x1b" not in refused.stderr
    (row,) = _json(lab, "submissions", "show", identity)["first_rows"]
    assert (row["id"], row[odd]) == (0, "beside")
    assert row["zone"] == "a value of timestamp[us, tz=No/Zone] that cannot be shown"


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (pa.table({"label": ["x"]}), "the table lacks the column 'id'"),
        (pa.table({"id": [0]}), "the table has no column beside 'id'"),
        (pa.table({"id": [0, None], "label": ["x", "y"]}), "row 2: the column 'id' is null"),
        (
            pa.table({"id": [0, 2, 0], "label": ["x"] * 3}),
            "row 3: the column 'id' has a value that stands in an earlier row",
        ),
        (pa.table({"id": ["x"], "label": ["x"]}), "the column 'id' is string, and int64 in the dataset"),
        (pa.table({"id": ["0"], "label": ["x"]}), "the column 'id' is string, and int64 in the dataset"),
        (pa.table({"id": [0.0], "label": ["x"]}), "the column 'id' is double, and int64 in the dataset"),
        (
            pa.table({"id": pa.array([2**64 - 1], pa.uint64()), "label": ["x"]}),
            "the column 'id' is uint64, and int64 in the dataset, which does not hold all of its values",
        ),
        (pa.table({"id": [0], "Prompt": ["x"]}), "the column 'Prompt' is one of the dataset's own"),
        (pa.table({"id": pa.array([], pa.int64()), "label": pa.array([], pa.string())}), "the table has no rows"),
        (pa.table({"id": [0], "label": pa.array([None], pa.list_(pa.struct([])))}), "which Parquet cannot hold"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    served: Served, tmp_path: Path, table: pa.Table, why: str
) -> None:
    """One sentence that names the file, and the row or column at fault; no traceback."""
    before = len(served.lab.vault.submissions())
    with pytest.raises(InvalidInput, match=why):
        vault.connect(served.path).dataset("evals").submit(table)
    assert len(served.lab.vault.submissions()) == before


def test_the_file_at_fault_is_named(served: Served, tmp_path: Path) -> None:
    """By the command, which knows it."""
    (tmp_path / "bad.jsonl").write_text('{"id": 0, "label": "x"}\n{"id": 0, "label": "y"}\n')
    found = dsvault("submit", "evals", str(tmp_path / "bad.jsonl"), "--profile", str(served.path))
    said = f"dsvault: {tmp_path / 'bad.jsonl'}: row 2: the column 'id' has a value that stands in an earlier row\n"
    assert (found.returncode, found.stderr) == (1, said)


def test_profiles_that_cannot_sign_or_seal_say_so(served: Served, tmp_path: Path) -> None:
    """A bearer credential has no key to sign with; an older profile none to seal to."""
    bearer, older = tmp_path / "bearer.json", tmp_path / "older.json"
    served.lab.vault.issue_credential("acme", endpoint=served.url, bearer=True).save(bearer)
    document = json.loads(served.path.read_text())
    del document["submission_key"]
    older.write_text(json.dumps(document))
    for path, why in ((bearer, "bound to none"), (older, "ask the lab for a new credential")):
        with pytest.raises(InvalidInput, match=why):
            vault.connect(path).dataset("evals").submit(labels(0))


def test_a_desk_is_what_a_client_is(served: Served) -> None:
    """Tests without a network go through the same client and the same access path."""
    desk = Desk(served.lab)
    identity = desk.submit(labels(0))
    served.lab.vault.reject_submission(identity, "a test")
