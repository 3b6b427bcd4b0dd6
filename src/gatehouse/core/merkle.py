"""Merkle trees as RFC 6962 and RFC 9162 define them: hashing, a compact frontier to append to, proofs and their verification.

A log of any length is carried by its frontier: the roots of the perfect subtrees it splits into, at most 64 hashes of 32
bytes. Leaf and node hashes differ in their first byte, so that neither can pass for the other.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: enough to append and to know the root, without any earlier leaf."""

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        """How many leaves the tree has."""
        self._nodes: list[bytes] = []  # roots of the perfect subtrees, largest first: one for each bit set in size

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes in order."""
        nodes = self._nodes
        size = self.size
        for leaf in leaves:
            node = leaf
            carry = size
            while carry & 1:
                node = sha256(b"\x01" + nodes.pop() + node).digest()
                carry >>= 1
            nodes.append(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self._nodes:
            return EMPTY_ROOT
        root = self._nodes[-1]
        for node in reversed(self._nodes[:-1]):
            root = node_hash(node, root)
        return root

    def dump(self) -> bytes:
        """The hashes in a row, largest subtree first; `load` with `size` is its inverse."""
        return b"".join(self._nodes)

    @classmethod
    def load(cls, size: int, nodes: bytes) -> "Frontier":
        """Raises ValueError when `nodes` cannot be the frontier of a tree of `size` leaves."""
        if size < 0 or len(nodes) != size.bit_count() * HASH_SIZE:
            raise ValueError(f"{len(nodes)} bytes are not the frontier of a tree of {size} leaves")
        frontier = cls()
        frontier.size = size
        frontier._nodes = [nodes[start : start + HASH_SIZE] for start in range(0, len(nodes), HASH_SIZE)]
        return frontier


def root_of(leaves: Sequence[bytes], start: int = 0, end: int | None = None) -> bytes:
    """The root over `leaves[start:end]` (leaf hashes)."""
    frontier = Frontier()
    frontier.extend(leaves[at] for at in range(start, len(leaves) if end is None else end))
    return frontier.root()


def _split(width: int) -> int:
    """The largest power of two below `width` (> 1): how many leaves go left."""
    return 1 << ((width - 1).bit_length() - 1)


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index`, from the leaf upwards. Raises IndexError when there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} in a tree of {len(leaves)}")
    path: list[bytes] = []
    start, end = 0, len(leaves)
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(root_of(leaves, middle, end))
            end = middle
        else:
            path.append(root_of(leaves, start, middle))
            start = middle
    path.reverse()
    return path


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree over `leaves` extends its own first `old_size` leaves. Empty when equal or from nothing.

    Raises IndexError when the tree is smaller than `old_size`.
    """
    if not 0 <= old_size <= len(leaves):
        raise IndexError(f"a tree of {len(leaves)} leaves does not extend one of {old_size}")
    if old_size in {0, len(leaves)}:
        return []
    proof: list[bytes] = []
    start, end = 0, len(leaves)
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(root_of(leaves, middle, end))
            end = middle
        else:
            proof.append(root_of(leaves, start, middle))
            start = middle
    if start:  # else the old tree is a subtree whose root the verifier has
        proof.append(root_of(leaves, start, end))
    proof.reverse()
    return proof


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows that the leaf hash stands at `index` in the tree of `size` leaves with that root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and computed == root


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `new_size` extends the one of `old_size` (RFC 9162, 2.1.4.2)."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if old_size == new_size:
        return not proof and old_root == new_root
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == new_root
