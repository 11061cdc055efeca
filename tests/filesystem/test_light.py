"""What a file system and lazy scans load: nothing of the lab's, and no library before it is used."""

import json
import subprocess
import sys

_LABS = ("fastapi", "sqlalchemy", "sqlglot", "vault.catalog", "vault.filters", "vault.owner", "vault.workings")
_TOOLS = ("duckdb", "pandas", "polars", "pyarrow.dataset", "torch")


def _loaded(words: str) -> object:
    script = f"import json, sys; {words}; json.dump(sorted(set({(*_LABS, *_TOOLS)}) & set(sys.modules)), sys.stdout)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_file_system_loads_no_tool_and_nothing_of_the_labs() -> None:
    """Found by its protocol as tools find it."""
    assert _loaded("import fsspec; fsspec.filesystem('dsvault', profile='acme.json')") == []


def test_a_lazy_scan_loads_no_polars() -> None:
    """Nor does a client that has one; a frame of polars does."""
    assert _loaded("from vault.client import Client; from vault.readers import Lazy; Lazy(None).select('a')") == []


def test_fsspec_alone_loads_nothing_of_ours() -> None:
    """An entry point is a name until somebody asks for the protocol."""
    script = "import fsspec, sys; print([name for name in sys.modules if name.split('.')[0] == 'vault'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
