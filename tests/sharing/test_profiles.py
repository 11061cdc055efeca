"""Profiles of one kind given to the clients of the other."""

import json
from pathlib import Path

import delta_sharing
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.program import dsvault
from tests.support.sharing import caller
from vault.errors import InvalidInput

# The client's own: a copy that pandas need not make, and sessions that it leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")

_FOREIGN = {
    "shareCredentialsVersion": 1,
    "endpoint": "https://sharing.example/delta-sharing/",
    "bearerToken": "planted-token",
    "expirationTime": "2030-01-01T00:00:00Z",
}


def test_a_bearers_profile_is_good_for_both(granted: Lab, tmp_path: Path) -> None:
    """What Delta Sharing's client reads, our client and command read too."""
    with broker(granted.folder) as endpoint:
        acme = caller(granted, endpoint)
        found = dsvault("fetch", "evals", "--profile", str(acme.profile), "-o", str(tmp_path / "rows.jsonl"))
        assert found.returncode == 0, found.stderr
        frame = delta_sharing.load_as_pandas(acme.url("default.evals"))
        ids = [json.loads(line)["id"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        assert ids == frame["id"].tolist() == list(range(0, 100, 2))


def test_a_key_bound_profile_is_none_of_delta_sharing(granted: Lab) -> None:
    """Its client raises what the how-to says that it does, before it asks anybody."""
    profile = granted.profile("acme", "https://broker.example:1")
    with pytest.raises(KeyError, match="^'shareCredentialsVersion'$"):
        delta_sharing.SharingClient(str(profile))
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "delta-sharing.md").read_text()
    assert "`KeyError: 'shareCredentialsVersion'`" in page


def test_another_servers_profile_is_none_of_ours(tmp_path: Path) -> None:
    """One sentence that names the file and what it is, and no word of the token in it."""
    path = tmp_path / "other.share"
    path.write_text(json.dumps(_FOREIGN))
    sentence = f"{path}: this is another server's Delta Sharing profile, and none of dsvault's"
    with pytest.raises(InvalidInput) as refused:
        vault.connect(path)
    assert str(refused.value) == sentence
    found = dsvault("fetch", "evals", "--profile", str(path))
    assert (found.returncode, found.stderr) == (1, f"dsvault: {sentence}\n")


@pytest.mark.parametrize("text", ["[]", "7", '"shareCredentialsVersion"', '["shareCredentialsVersion"]', "null", "{"])
def test_what_is_no_profile_at_all_is_said(tmp_path: Path, text: str) -> None:
    """Whatever kind of document it is."""
    (tmp_path / "odd.share").write_text(text)
    with pytest.raises(InvalidInput, match=r"odd\.share: this is not a dsvault profile"):
        vault.connect(tmp_path / "odd.share")


def test_a_key_for_a_bearer_is_said(granted: Lab, tmp_path: Path) -> None:
    """It is bound to none: whoever names one believes something else of it."""
    path, key = tmp_path / "acme.share", tmp_path / "own.key.json"
    granted.vault.issue_credential("acme", bearer=True, endpoint="https://broker.example").save(path)
    key.write_text("{}")
    with pytest.raises(InvalidInput, match=r"own\.key\.json: the credential in .*acme\.share is a bearer's"):
        vault.connect(path, key)
    assert vault.connect(path).profile.vendor == "acme"
