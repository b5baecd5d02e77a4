"""The diagrams in docs/states say what the transition tables say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "states"
GENERATOR = runpy.run_path(str(FOLDER / "generate.py"))


@pytest.mark.parametrize("name", sorted(GENERATOR["TABLES"]))
def test_diagram_is_up_to_date(name: str) -> None:
    """A changed table without `python docs/states/generate.py` fails here."""
    expected = GENERATOR["diagram"](name, GENERATOR["TABLES"][name])
    assert (FOLDER / f"{name}.md").read_text() == expected
