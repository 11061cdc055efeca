"""What ``make test-cluster`` runs, and what of it is left out."""

import ast
from pathlib import Path

import pytest

from tests.support.on_cluster import FILES, ONLY_HERE

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ONLY_HERE)
def test_what_is_left_out_is_there_and_has_a_reason(name: str) -> None:
    """A test that was renamed, or is in no file of the suite, is not left out unseen."""
    path, _, test = name.partition("::")
    tree = ast.parse((_ROOT / path).read_text())
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert path in FILES
    assert len(ONLY_HERE[name]) > 10


def test_the_suite_is_made_of_files_that_there_are() -> None:
    """A file that was moved is missed here and not on the cluster."""
    assert all((_ROOT / name).exists() for name in FILES)
