"""The story out of one machine, as ``make demo-cluster`` plays it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "bench" / "demo_cluster.py"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for everything, which PostgreSQL's own user gets into too."""
    folder = Path(tempfile.mkdtemp(prefix="dsvault-story-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.minutes
@pytest.mark.timeout(600)
def test_the_story_out_of_one_machine(place: Path) -> None:
    """Every step comes out as it is told, and no server or broker outlives it."""
    command = [sys.executable, str(_SCRIPT), "--dir", str(place / "demo")]
    environment = {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    for said in ("two brokers start", "both brokers were asked", "is killed (-9), and acme reads on", "none opens"):
        assert said in done.stdout
    assert _running(place) == []


def _running(place: Path) -> list[str]:
    """The processes whose command names the directory: each of the servers' and brokers' does."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in text:
            found.append(text)
    return found
