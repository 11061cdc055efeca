"""One hostile place for each worker: its tests read, and leave the grants of acme and globex as they are."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

import vault
from tests.attacks.hostile.place import Hostile, evals
from tests.conftest import Lab
from tests.support.brokers import broker


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """acme, which is hostile, and globex, at one broker."""
    folder = tmp_path_factory.mktemp("hostile") / "lab"
    opened = vault.init(folder)
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    opened.publish("evals", evals(50), shard_rows=20)
    opened.publish("secret", evals(50))
    opened.publish("shared", pa.table({"id": range(50), "text": [f"shared {number}" for number in range(50)]}))
    opened.publish("leased", pa.table({"id": range(50), "text": [f"leased {number}" for number in range(50)]}))
    opened.grant(
        "acme",
        "evals",
        ["id", "prompt", "meta.source", "author"],
        where="lang = 'planted-en'",
        masks={"author": "redact"},
    )
    opened.grant("globex", "secret", ["id", "answer"], delivery="lease")
    for vendor in ("acme", "globex"):
        opened.grant(vendor, "shared", ["id", "text"])
        opened.grant(vendor, "leased", ["id", "text"], delivery="lease")
    acme, globex = (opened.issue_credential(vendor, bearer=True).profile.token for vendor in ("acme", "globex"))
    with broker(folder) as endpoint:
        yield Hostile(Lab(folder, opened), endpoint, acme, globex)
    assert opened.audit_verify() > 0
