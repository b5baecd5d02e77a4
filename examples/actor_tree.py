"""Grow a tree of actors in which each actor creates its children and sums what they report.

Shows actors that create actors, handles kept as state, calls that wait for other calls, and the
order that a caller may rely on: an actor runs one caller's calls in the order they were made, so
``total`` sees every ``add`` that was sent down before it, without waiting for any of them.

Run it with:  python examples/actor_tree.py [LEVELS_BELOW_THE_ROOT [CHILDREN_OF_EACH]]
"""

from __future__ import annotations

import sys
from typing import Any

import skate


@skate.remote
class TreeNode:
    """One node of the tree: a value of its own, and handles to its children."""

    def __init__(self, name: str, levels_below: int, fanout: int) -> None:
        self.name = name
        self.value = 1
        self.children: list[Any] = []
        if levels_below:
            names = [f"{name}.{child}" for child in range(fanout)]
            self.children = [TreeNode.remote(each, levels_below - 1, fanout) for each in names]

    def add(self, amount: int) -> None:
        """Add to this node's value and send the same order down the tree."""
        self.value += amount
        for child in self.children:
            child.add.remote(amount)

    def total(self) -> int:
        """Return the sum of the values of this node and of everything below it."""
        below: list[int] = skate.get([child.total.remote() for child in self.children])
        return self.value + sum(below)

    def names(self) -> list[str]:
        """Return the names of this node and of everything below it, depth first."""
        below = skate.get([child.names.remote() for child in self.children])
        return [self.name, *(name for names in below for name in names)]


def main(levels_below: int = 3, fanout: int = 2) -> None:
    """Grow a tree, send amounts down it, and check the sums that come back up."""
    skate.init()
    root = TreeNode.remote("0", levels_below, fanout)
    names = skate.get(root.names.remote())
    size = sum(fanout**level for level in range(levels_below + 1))
    assert len(names) == size and names == sorted(names), names
    print(f"a tree of {size} actors, from {names[0]} to {names[-1]}")

    totals = [root.total.remote()]
    for amount in (1, 10, 100):
        root.add.remote(amount)
        totals.append(root.total.remote())
    sums = skate.get(totals)
    assert sums == [size, 2 * size, 12 * size, 112 * size], sums
    print("totals after each order:", *sums)
    skate.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
