"""The drill, on a little data."""

import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_the_drill_plays_to_its_end(tmp_path: Path) -> None:
    """From the alarm to the verified bundle, with the commands as they are given, and the timeline in order."""
    command = [sys.executable, "bench/drill.py", "--size", "3", "--streams", "2", "--before", "0.2"]
    done = subprocess.run(
        [*command, "--folder", tmp_path / "drill"], cwd=_ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    moments = [
        (name, float(at)) for name, at in re.findall(r"^\| ([a-z ]+) \| ([0-9.]+) \|", done.stdout, re.MULTILINE)
    ]
    times = dict(moments)
    assert [name for name, _ in moments][:2] == ["alarm", "frozen"]
    assert times["frozen"] < times["rekeyed"] < times["contained"] < times["bundle verified"]
    assert "of which failed: 0" in done.stdout
    assert not (tmp_path / "drill").exists()
