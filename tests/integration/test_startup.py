"""What a short command does not load: who stops a vendor at night waits for every import."""

import json
import os
import subprocess
import sys
from typing import Final

from tests.conftest import Lab

#: What only tables, filters, reports, servers, clients and other machines need.
_HEAVY: Final = (
    *("alembic", "boto3", "botocore", "fastapi", "hvac", "jinja2", "joserfc", "numpy", "pandas", "polars"),
    *("prometheus_client", "psycopg", "pyarrow", "ray", "rich.progress", "sqlglot", "starlette", "urllib3"),
    *("uvicorn", "xxhash"),
)

#: Runs commands one after another in a process of their own, and says after each what of it is loaded by then.
_SCRIPT: Final = """
import contextlib, io, json, sys

heavy, commands = json.loads(sys.argv[1])
from vault_cli.main import run

loaded = []
for words in commands:
    sys.argv = ["dsvault", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        run()
    loaded.append(sorted(set(heavy) & set(sys.modules)))
json.dump(loaded, sys.stdout)
"""


def _loaded(script: str, *words: str) -> object:
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_stopping_a_vendor_loads_nothing_that_it_does_not_use(granted: Lab) -> None:
    """Neither does looking at vendors, grants and credentials; and what was asked for is done."""
    grant, credential = granted.vault.grants()[0].grant.id, granted.vault.issue_credential("acme").id
    commands = [
        ["vendor", "list"],
        ["grants", "--json"],
        ["credential", "list", "--json"],
        ["credential", "revoke", credential],
        ["revoke", grant],
        ["vendor", "freeze", "acme"],
    ]
    asked = [[*words, "--vault", os.fspath(granted.folder)] for words in commands]
    assert _loaded(_SCRIPT, json.dumps([_HEAVY, asked])) == [[] for _ in commands]
    assert [state.state for state in granted.vault.grants()] == ["revoked"]
    assert [state.frozen for state in granted.vault.vendors()] == [True, False]


def test_help_loads_neither_a_catalog_nor_what_draws_boxes() -> None:
    """Of any command, before and after its name."""
    words = [["--help"], ["vendor", "freeze", "--help"], ["publish", "--help"]]
    heavy = [*_HEAVY, "cryptography", "fsspec", "rich", "sqlalchemy", "vault.owner"]
    assert _loaded(_SCRIPT, json.dumps([heavy, words])) == [[], [], []]


def test_a_vendors_client_loads_nothing_of_the_labs() -> None:
    """Neither a catalog nor a store nor a server; and before it reads under a lease nothing that decrypts."""
    script = "import json, sys; from vault import connect; json.dump(sorted(set(sys.argv[1:]) & set(sys.modules)), sys.stdout)"
    others = ("cryptography", "fastapi", "fsspec", "jinja2", "pyarrow.parquet", "sqlalchemy", "sqlglot", "vault.owner")
    assert _loaded(script, *others) == []


def test_a_vendors_client_loads_no_library_that_only_a_reader_needs() -> None:
    """Neither when it is imported, nor with the class that has all readers."""
    script = "import json, sys, vault; vault.connect, vault.client.Dataset; json.dump(sorted(set(sys.argv[1:]) & set(sys.modules)), sys.stdout)"
    others = (
        "datasets",
        "duckdb",
        "fsspec",
        "pandas",
        "polars",
        "ray",
        "torch",
        "vault.readers.huggingface",
        "vault.readers.torch",
    )
    assert _loaded(script, *others) == []


def test_the_package_itself_is_light() -> None:
    """What a name of it needs is loaded when the name is used."""
    script = "import json, sys; import vault; json.dump(sorted(set(sys.argv[1:]) & set(sys.modules)), sys.stdout)"
    assert _loaded(script, *_HEAVY, "cryptography", "fsspec", "sqlalchemy", "vault.client", "vault.owner") == []


def test_a_lazy_frame_loads_nothing_but_polars(granted: Lab) -> None:
    """Least of all pandas, which Arrow looks for at every list that an array is made of."""
    script = (
        "import json, sys, vault; vault.open(sys.argv[1]).dataset('evals').scan_polars(); "
        "json.dump([name for name in ('pandas', 'duckdb', 'pyarrow.dataset') if name in sys.modules], sys.stdout)"
    )
    assert _loaded(script, str(granted.folder)) == []
