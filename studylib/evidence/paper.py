"""What a paper's folder holds besides its card: presets, and what its last rendering measured."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from studylib.errors import StudyError, cut
from studylib.evidence.card import read_toml, shown_path
from studylib.evidence.verdicts import VERDICTS
from studylib.files import read_json, read_once
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
    strange = [name for name in presets if not name.isprintable()]
    if strange:
        raise StudyError(f"{shown_path(path)} has a preset called {strange[0]!r}", "Give it a name that can be typed")
    return presets


class Measured(BaseModel):
    """The part of results.json that all its readers use; what else stands there stays as it is."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    params: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    claims: dict[str, dict[str, Any]]


def load_results(slug: str) -> dict[str, Any] | None:
    """Read what `study render` last wrote to `papers/<slug>/results.json`; None before the first time.

    StudyError for a file that is damaged.
    """
    path = find_root() / "papers" / slug / "results.json"
    if not path.exists():
        return None
    again = f"Run `study render {slug}`"
    results = read_json(path, again)
    try:
        measured = Measured.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        cause = f"{shown_path(path)} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StudyError(cut(cause), again) from error
    strange = [claim.get("verdict") for claim in measured.claims.values() if claim.get("verdict") not in [*VERDICTS]]
    if strange:
        raise StudyError(f"{shown_path(path)} is damaged: {cut(repr(strange[0]))} is no verdict", again)
    return {"params": {}, "metrics": {}} | results
