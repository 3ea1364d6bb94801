"""`study train`: the trainings whose weights ship, of papers and of the tiny world."""

import os
import subprocess
import sys
from typing import Annotated

import typer

from studylib.cli.app import app
from studylib.errors import StudyError, nearest
from studylib.workspace import PACKAGE, find_root, import_paths, paper_folder, written_papers

NOT_TRAININGS = ("__init__", "bars", "budget", "optimisers", "precision", "recipe")


@app.command(
    epilog="Example: study train sd --init studylib/weights/sd --seed 1 --minutes 60",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def train(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A paper that trains weights, or a tiny model.")] = None,
) -> None:
    """Train weights that ship: a paper's, or one of the tiny models. Without a name, list them.

    Words after the name are handed on: `study train sd -- --help` shows what a training takes.
    """
    trainings = known_trainings()
    if name is None:
        for known, module in trainings.items():
            typer.echo(f"{known:20} python -m {module}")
        return
    if name not in trainings:
        what = f"{name} trains no weights" if name in written_papers() else f"no training is called {name!r}"
        raise StudyError(what, f"{nearest(name, trainings)}Trainings: {', '.join(trainings)}")
    command = [sys.executable, "-m", trainings[name], *context.args]
    raise typer.Exit(subprocess.run(command, cwd=find_root(), env=os.environ | import_paths()).returncode)


def known_trainings() -> dict[str, str]:
    """Name -> module, the tiny world's recipes first, then the papers with a train.py."""
    recipes = sorted(path.stem for path in (PACKAGE / "recipes").glob("*.py") if path.stem not in NOT_TRAININGS)
    papers = [slug for slug in written_papers() if (paper_folder(slug) / "train.py").is_file()]
    return {name: f"studylib.recipes.{name}" for name in recipes} | {slug: f"papers.{slug}.train" for slug in papers}
