"""Effects that take a training per seed: `study render --full` measures them, the paper's notebook reads them.

A notebook that trains has a parameter `full`. With it the run at each of five seeds also makes the trainings that the
claims compare, and records their effects by claim and prompt.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Annotated, Any, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from studylib.errors import StudyError, cut
from studylib.evidence.claims import Effects
from studylib.evidence.intervals import MIN_TRAINING_SEEDS
from studylib.files import read_regular, write_atomically
from studylib.running.fingerprint import EFFECTS, code_hash, weight_hashes
from studylib.running.parameters import read_parameters
from studylib.workspace import notebook_path, paper_folder

EARLIER = "measured by earlier code"
SEEDS = list(range(MIN_TRAINING_SEEDS))
WIDEST = 640  # pixels of a kept figure in a notebook
PICTURES = "full_"  # begins the names of the figures that `study render --full` keeps, those of its first seed


Seed = Annotated[str, Field(pattern=r"^\d{1,9}$")]


class Stored(BaseModel):
    """What `papers/<slug>/effects.json` holds: the effects, and what they were measured with."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    params: dict[str, Any]
    weights: dict[str, str]
    code: str = ""  # the hash of the code that made them
    effects: dict[str, dict[Seed, dict[str, float]]]


def stored_effects(slug: str, values: Mapping[str, Any]) -> Effects:
    """The effects that `study render --full` measured with these parameters, today's weights and code; none else.

    `values` hold the notebook's parameters by name, such as its `globals()`; `seed` does not count, since every seed
    is in the effects.
    """
    stored, why = _stored(slug, values)
    if stored is None:
        return Effects(why_none=why)
    return Effects({
        claim: {int(seed): values for seed, values in seeds.items()} for claim, seeds in stored.effects.items()
    })


def _stored(slug: str, values: Mapping[str, Any]) -> tuple[Stored | None, str]:
    """What was measured with these parameters, today's weights and code; else None, and why where something was."""
    path = paper_folder(slug) / EFFECTS
    if values.get("full") or not path.is_file():
        return None, ""
    try:
        stored = Stored.model_validate_json(read_regular(path))
    except ValidationError as error:
        cause = f"papers/{slug}/{EFFECTS} is damaged: {cut(error.errors()[0]['msg'])}"
        raise StudyError(cause, f"Run `study render --full {slug}`") from error
    asked = {name: values[name] for name in read_parameters(notebook_path(slug)) if name not in ("full", "seed")}
    if asked != stored.params or weight_hashes(slug, values.get("model")) != stored.weights:
        return None, ""
    return (stored, "") if stored.code == code_hash(slug) else (None, EARLIER)


def stored_picture(slug: str, name: str, values: Mapping[str, Any]) -> Any:
    """The picture that a run with `full` and these parameters left under `name`, as a notebook shows it.

    None where there is none, or the stored effects were measured with other parameters or weights.
    """
    path = paper_folder(slug) / "figures" / f"{PICTURES}{name}.webp"
    if not path.is_file() or _stored(slug, values)[0] is None:
        return None
    from IPython import display
    from PIL import Image

    encoded = io.BytesIO()
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
        picture.thumbnail((WIDEST, 4 * WIDEST))
        picture.save(encoded, "JPEG", quality=50, optimize=True, progressive=True)
    return display.Image(data=encoded.getvalue(), format="jpeg")


def trains_over_seeds(slug: str) -> bool:
    """Whether a paper's notebook trains over seeds: it has the parameters `full` and `seed`."""
    return {"full", "seed"} <= set(read_parameters(notebook_path(slug)))


def measure_effects(
    slug: str, *, jobs: int = 1, timeout: int = 3600, stream: TextIO | None = None
) -> dict[str, Any]:
    """Run the notebook with `full` at every seed, as a sweep, and write its effects to `papers/<slug>/effects.json`.

    Figures of the first seed whose names begin with `full_` are kept among the paper's. Interrupted, it goes on where
    it was. Raises StudyError for a notebook without that parameter, a point that failed, and runs that did not record
    the same claims.
    """
    from studylib.running import sweeps
    from studylib.running.records import read_record
    from studylib.workspace import runs_folder

    if not trains_over_seeds(slug):
        raise StudyError(
            f"{slug} has nothing to train over seeds: its notebook has no parameters `full` and `seed`",
            f"Render it without --full: study render {slug}",
        )
    code = code_hash(slug)
    sweep = sweeps.plan(slug, {"seed": SEEDS}, {"full": True})
    sweeps.run_sweep(sweep, jobs=jobs, timeout=timeout, stream=stream)
    failed = [f"seed {point.given['seed']}: {point.error}" for point in sweep.points if point.state == "failed"]
    if failed:
        raise StudyError("; ".join(failed), "Mend it; the same command runs only what is missing", exit_code=1)
    records = {point.given["seed"]: read_record(runs_folder() / slug / point.run_id) for point in sweep.points}
    found = {seed: record.get("effects", {}) for seed, record in records.items()}
    if not found[SEEDS[0]] or len({frozenset(effects) for effects in found.values()}) > 1:
        raise StudyError(
            f"runs of {slug} with full=true recorded effects of these claims: {[sorted(e) for e in found.values()]}",
            "Give record(..., effects={claim: {prompt: value}}) the same claims at every seed",
            exit_code=1,
        )
    first = records[SEEDS[0]]
    params = {name: value for name, value in first["params"].items() if name not in ("full", "seed")}
    effects = {claim: {str(seed): found[seed][claim] for seed in SEEDS} for claim in found[SEEDS[0]]}
    content = {"params": params, "weights": first["weights"], "code": code, "effects": effects}
    drawn = runs_folder() / slug / first["run_id"] / "figures"
    for path in sorted(drawn.glob(f"{PICTURES}*.webp")):
        write_atomically(paper_folder(slug) / "figures" / path.name, path.read_bytes())
    write_atomically(paper_folder(slug) / EFFECTS, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return content
