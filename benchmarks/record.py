"""The record of a whole comparison: what was measured, and how. Written by ``compare --json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Results


@dataclass(frozen=True)
class Record:
    """``systems`` are the peers in the order to show them; ``busy``, programs computing beside."""

    results: Results
    systems: tuple[str, ...]
    rounds: int
    versions: tuple[str, ...] = ()
    busy: int = 0

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Record:
    """What ``write`` wrote."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields |= {name: tuple(fields[name]) for name in ("systems", "versions")}
    return Record(**fields)
