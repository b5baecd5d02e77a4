"""Writes the diagrams of this folder out of skate.states: ``python docs/states/generate.py``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from skate import states

TABLES: dict[str, Mapping[Any, tuple[Any, ...]]] = {
    "task": states.TASK_MOVES,
    "actor": states.ACTOR_MOVES,
    "worker": states.WORKER_MOVES,
    "object": states.OBJECT_MOVES,
    "node": states.NODE_MOVES,
    "placement_group": states.PLACEMENT_GROUP_MOVES,
    "lane": states.LANE_MOVES,
}


def diagram(name: str, moves: Mapping[IntEnum, tuple[IntEnum, ...]]) -> str:
    """A Mermaid state diagram of one transition table."""
    first = next(iter(moves))
    lines = [f"# Life of a {name.replace('_', ' ')}", "", "```mermaid", "stateDiagram-v2"]
    lines.append(f"    [*] --> {first.name}")
    for state, targets in moves.items():
        lines += [f"    {state.name} --> {target.name}" for target in targets]
        if not targets:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Write one file a table."""
    for name, moves in TABLES.items():
        (Path(__file__).parent / f"{name}.md").write_text(diagram(name, moves))


if __name__ == "__main__":
    main()
