"""The log's tree: its hashes and proofs beside those of another implementation, and what is no proof."""

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from tests.vectors.make_at_rest import root_of
from vault.audit import merkle
from vault.audit.merkle import EMPTY, Edge, Tree, leaf_hash, node_hash, verify_consistency, verify_inclusion
from vault.errors import IntegrityError

_LEAVES = [leaf_hash(bytes([number])) for number in range(80)]
_ROOTS = [root_of(_LEAVES[:size]) for size in range(81)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight leaves, so that the trees of these tests have several."""
    monkeypatch.setattr(merkle, "_BLOCK", 8)


def _tree(size: int = 80) -> Tree:
    return Tree(size, lambda start, stop: _LEAVES[start:stop])


def test_hashes_are_those_of_rfc_6962() -> None:
    """The empty tree, a leaf and a node hash as RFC 6962 section 2.1 has it."""
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert node_hash(b"\1" * 32, b"\2" * 32) == hashlib.sha256(b"\1" + b"\1" * 32 + b"\2" * 32).digest()


def test_roots_and_proofs_are_those_of_another_implementation() -> None:
    """Root hashes of every size, and every inclusion path, are those that pymerkle gives."""
    other = InmemoryTree(algorithm="sha256")
    edge = Edge()
    for size in range(1, 81):
        other.append_entry(bytes([size - 1]))
        edge = edge.append(_LEAVES[size - 1])
        assert edge.root == other.get_root(size) == _ROOTS[size] == _tree(size).root
    for number in range(80):
        path = other.prove_inclusion(number + 1, 80).serialize()["path"]
        ours = [_LEAVES[number], *_tree().inclusion(number)]
        assert [bytes.fromhex(each) for each in path] == ours


@given(st.integers(1, 80), st.data())
def test_an_entry_is_shown_to_be_in_the_log(size: int, data: st.DataObject) -> None:
    """The path of each leaf of each size verifies, and with any change it does not."""
    number = data.draw(st.integers(0, size - 1))
    leaf, path, root = _LEAVES[number], _tree().inclusion(number, size), _ROOTS[size]
    verify_inclusion(leaf, number, size, path, root)
    other = os.urandom(32)
    wrong = [(other, number, path, root), (leaf, number, path, other), (leaf, number, [*path, other], root)]
    wrong += [(leaf, number, [*path[:at], other, *path[at + 1 :]], root) for at in range(len(path))]
    wrong += [(leaf, number, path[:-1], root), (leaf, number, path[1:], root)] if path else []
    wrong += [(leaf, each, path, root) for each in (number - 1, number + 1, size, -1) if each != number]
    wrong += [(leaf, number, [each[:31] for each in path], root)] if path else []
    for bad_leaf, bad_number, bad_path, bad_root in wrong:
        with pytest.raises(IntegrityError):
            verify_inclusion(bad_leaf, bad_number, size, bad_path, bad_root)


@given(st.integers(0, 80), st.data())
def test_a_log_is_shown_to_have_only_grown(size: int, data: st.DataObject) -> None:
    """The proof for each earlier size verifies, and with any change it does not."""
    old = data.draw(st.integers(0, size))
    path, root, before = _tree().consistency(old, size), _ROOTS[size], _ROOTS[old]
    verify_consistency(old, size, before, root, path)
    other = os.urandom(32)
    wrong = [(other, root, path), (before, root, [*path, other])]
    wrong += [(before, other, path)] if old else []
    wrong += [(before, root, [*path[:at], other, *path[at + 1 :]]) for at in range(len(path))]
    wrong += [(before, root, path[:-1]), (before, root, path[1:])] if path else []
    for bad_before, bad_root, bad_path in wrong:
        with pytest.raises(IntegrityError):
            verify_consistency(old, size, bad_before, bad_root, bad_path)


def test_a_forked_log_has_no_proof() -> None:
    """Two logs that differ in one entry are never shown to be one, whichever entry and sizes."""
    for fork in range(1, 20):
        leaves = [*_LEAVES[:fork], leaf_hash(b"another"), *_LEAVES[fork + 1 :]]
        forked = Tree(40, lambda start, stop, leaves=leaves: leaves[start:stop])  # type: ignore[misc]
        for old in range(fork + 1, 30):
            with pytest.raises(IntegrityError):
                verify_consistency(old, 40, _ROOTS[old], forked.root, forked.consistency(old))


@pytest.mark.parametrize(("size", "hashes"), [(1, ()), (0, (bytes(32),)), (3, (bytes(32),)), (1, (bytes(31),))])
def test_an_edge_without_a_hash_for_each_subtree_is_refused(size: int, hashes: tuple[bytes, ...]) -> None:
    """The number and length of an edge's hashes follow from the size."""
    with pytest.raises(IntegrityError):
        Edge(size, hashes)


def test_a_tree_over_a_log_that_lacks_entries_is_refused() -> None:
    """Whoever keeps the hashes and gives fewer than there are is told so."""
    with pytest.raises(IntegrityError, match="lacks an entry"):
        Tree(100, lambda start, stop: _LEAVES[start:stop])


@pytest.mark.parametrize(("number", "size"), [(5, 5), (-1, 5), (0, 81), (0, 0)])
def test_there_is_no_path_of_a_leaf_that_is_not_there(number: int, size: int) -> None:
    """A leaf behind the end, or a size that the tree does not have, is a mistake of the caller's."""
    with pytest.raises(ValueError, match="no such"):
        _tree().inclusion(number, size)
    with pytest.raises(ValueError, match="no such"):
        _tree().consistency(size + 1, size)
