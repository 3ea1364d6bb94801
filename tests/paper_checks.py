"""What tests of several papers ask in the same way."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from studylib.evidence.card import load_card
from studylib.workspace import written_papers


def verdicts(record: dict[str, Any], kind: str) -> set[str]:
    """The verdicts of one kind of claims in a run's record, which must hold every claim of the card and no other."""
    kinds = {claim.id: claim.kind for claim in load_card(record["slug"]).claims}
    assert set(record["claims"]) == set(kinds)
    return {found["verdict"] for id, found in record["claims"].items() if kinds[id] == kind}


def refuses(check: Callable[[Any], None], answer: Callable[..., Any], message: str) -> None:
    """An exercise's checker objects to this answer, and says so in words that match."""
    with pytest.raises(AssertionError, match=message):
        check(answer)


def module_of(slug: str, name: str = "method") -> ModuleType | None:
    """A module of a paper, for tests of what must hold of every paper; None where the paper was deleted."""
    return import_module(f"papers.{slug}.{name}") if slug in written_papers() else None


def own_tests(root: Path, slug: str) -> list[Path]:
    """The test files that belong to one paper by their names, such as tests/ui/test_my_paper_in_lab.py."""
    folders = ("papers", "ui", "gpu", "bench")
    files = [path for folder in folders for path in sorted((root / "tests" / folder).glob("*.py"))]
    return [path for path in files if re.search(rf"(^|_){slug}(_|$)", path.stem)]
