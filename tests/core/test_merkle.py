"""Merkle trees: published vectors, and properties against the recursive definition of RFC 6962."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

ENTRIES = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def by_definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(by_definition(leaves[:split]), by_definition(leaves[split:]))


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    """The frontier's root equals the vectors that the reference implementations of RFC 6962 share."""
    frontier = Frontier()
    frontier.extend(LEAVES[:size])
    assert frontier.root().hex() == ROOTS[size]
    assert root_of(LEAVES, 0, size).hex() == ROOTS[size]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    """RFC 6962: the root of an empty tree is the hash of an empty string."""
    assert Frontier().root() == EMPTY_ROOT == sha256(b"").digest()


def test_the_example_of_the_rfc() -> None:
    """RFC 6962 section 2.1.3: the paths and consistency proofs of its tree of seven leaves, node by node."""
    d = some_leaves(7)
    a, b, c, e, f, j = d[0], d[1], d[2], d[3], d[4], d[6]
    g, h, i = node_hash(a, b), node_hash(c, e), node_hash(f, d[5])
    k, m = node_hash(g, h), node_hash(i, j)
    assert inclusion_proof(d, 0) == [b, h, m]
    assert inclusion_proof(d, 3) == [c, g, m]
    assert inclusion_proof(d, 4) == [d[5], j, k]
    assert inclusion_proof(d, 6) == [i, k]
    assert consistency_proof(d, 3) == [c, e, g, m]
    assert consistency_proof(d, 4) == [m]
    assert consistency_proof(d, 6) == [i, j, k]


@given(st.integers(0, 70))
def test_a_frontier_knows_the_root_of_the_definition(size: int) -> None:
    """At every size, also after being written down and read again in the middle."""
    leaves = some_leaves(size)
    frontier = Frontier()
    for at, leaf in enumerate(leaves):
        if at == size // 2:
            frontier = Frontier.load(frontier.size, frontier.dump())
        frontier.append(leaf)
    assert frontier.size == size
    assert frontier.root() == by_definition(leaves)


@pytest.mark.parametrize(("size", "nodes"), [(1, b""), (3, b"x" * 32), (2, b"x" * 31), (-1, b""), (0, b"x" * 32)])
def test_what_is_no_frontier_is_refused(size: int, nodes: bytes) -> None:
    """A size and hashes that do not go together are not loaded."""
    with pytest.raises(ValueError, match="not the frontier"):
        Frontier.load(size, nodes)


@given(st.data())
def test_inclusion_is_proven_and_nothing_else_is(data: st.DataObject) -> None:
    """A path proves its leaf at its place; any other place, size, leaf or changed hash fails."""
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    leaves = some_leaves(size)
    root, proof = by_definition(leaves), inclusion_proof(leaves, index)
    assert verify_inclusion(leaves[index], index, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not verify_inclusion(leaves[index], index + size, size, proof, root)
    assert not verify_inclusion(leaves[index], index, size, [*proof, root], root)
    if size > 1:
        assert not verify_inclusion(leaves[index], index ^ 1, size, proof, root)
        assert not verify_inclusion(leaves[index], index, size, proof[:-1], root)
        broken = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_inclusion(leaves[index], index, size, [*proof[:broken], b"\0" * 32, *proof[broken + 1 :]], root)


@given(st.data())
def test_consistency_is_proven_and_nothing_else_is(data: st.DataObject) -> None:
    """A proof shows that the old tree is a beginning of the new one; changed roots, sizes or hashes fail."""
    new_size = data.draw(st.integers(0, 70))
    old_size = data.draw(st.integers(0, new_size))
    leaves = some_leaves(new_size)
    old, new = by_definition(leaves[:old_size]), by_definition(leaves)
    proof = consistency_proof(leaves, old_size)
    assert verify_consistency(old_size, new_size, old, new, proof)
    assert not verify_consistency(old_size, new_size, old, new, [*proof, new])
    assert not verify_consistency(new_size + 1, new_size, old, new, proof)
    if old_size:
        assert not verify_consistency(old_size, new_size, b"\0" * 32, new, proof)
        assert not verify_consistency(old_size, new_size, old, b"\0" * 32, proof)
    if proof:
        broken = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_consistency(old_size, new_size, old, new, [*proof[:broken], b"\0" * 32, *proof[broken + 1 :]])
        assert not verify_consistency(old_size, new_size, old, new, proof[:-1])


def test_proofs_of_what_is_not_there_are_refused() -> None:
    """A leaf beyond the tree and a past larger than the present have no proof."""
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES, 8)
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES, -1)
    with pytest.raises(IndexError):
        consistency_proof(LEAVES, 9)
    assert not verify_consistency(3, 5, by_definition(LEAVES[:3]), by_definition(LEAVES[:5]), [])
    assert not verify_consistency(4, 8, by_definition(LEAVES[:4]), by_definition(LEAVES), [])


def test_a_node_never_passes_for_a_leaf() -> None:
    """Leaf and node hashes of the same bytes differ (second preimage resistance)."""
    left, right = LEAVES[0], LEAVES[1]
    assert leaf_hash(left + right) != node_hash(left, right)
