"""What a paper's folder holds besides its card: presets, and what its last rendering measured."""

import json
from typing import Any

from studylib.errors import StudyError
from studylib.evidence.card import read_toml, shown_path
from studylib.files import read_once
from studylib.workspace import find_root, paper_folder

_read_presets = read_once(read_toml)


def load_presets(slug: str) -> dict[str, dict[str, Any]]:
    """Read `papers/<slug>/presets.toml`: preset name -> parameter name -> value. No file means no presets."""
    path = paper_folder(slug) / "presets.toml"
    presets = dict(_read_presets(path)) if path.is_file() else {}
    loose = [name for name, values in presets.items() if not isinstance(values, dict)]
    if loose:
        raise StudyError(
            f"{shown_path(path)} sets {', '.join(loose)} outside a preset",
            "Put it under a [name] line",
        )
    return presets


def load_results(slug: str) -> dict[str, Any] | None:
    """Read what `study render` last wrote to `papers/<slug>/results.json`; None before the first time."""
    path = find_root() / "papers" / slug / "results.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(
            f"{shown_path(path)} is not valid JSON: {error}", f"Run `study render {slug}`"
        ) from error
