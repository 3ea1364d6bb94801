"""The command `study`, thin: every command checks its words and calls one function."""

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from studylib.workspace import (
    StudyError,
    find_root,
    import_paths,
    notebook_path,
    paper_folder,
    written_papers,
)


class StudyGroup(TyperGroup):
    """Reports errors in one line and an exit code; `--debug`, anywhere, shows the traceback as well."""

    def main(self, args: list[str] | None = None, **options: Any) -> Any:
        """Run the command line."""
        given = list(sys.argv[1:] if args is None else args)
        self.debug = "--debug" in given
        return super().main(args=[word for word in given if word != "--debug"], **options)

    def invoke(self, ctx: Any) -> Any:
        """Run one command and turn what went wrong into a line."""
        try:
            return super().invoke(ctx)
        except StudyError as error:
            self.report(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            self.report("interrupted; nothing was recorded. Run the same command again")
            raise typer.Exit(130) from error
        except Exception as error:
            if type(error).__module__.startswith("typer") or isinstance(error, BrokenPipeError):
                raise  # typer's own way to end a command, and `study list | head`
            said = " ".join(str(error).split())
            self.report(f"unexpected {type(error).__name__}: {said}. Add --debug for the traceback")
            raise typer.Exit(1) from error

    def report(self, line: str) -> None:
        """Print the error line, after the traceback if it was asked for."""
        if self.debug:
            traceback.print_exc()
        typer.echo(f"error: {line}", err=True)


def _some_paper() -> str:
    """Name a paper to give examples with."""
    try:
        return (written_papers() or ["my_paper"])[0]
    except StudyError:
        return "my_paper"


SOME_PAPER = _some_paper()  # the library itself knows no paper's name
app = typer.Typer(
    cls=StudyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Example: study run {SOME_PAPER} -p seed=3",
)
Slug = Annotated[str, typer.Argument(help="The paper's short name; `study list` shows them.")]
Slugs = Annotated[
    list[str] | None, typer.Argument(help="Papers' short names; all written ones if none is given.")
]
Timeout = Annotated[int, typer.Option(min=1, help="Seconds one cell may run.")]


@app.callback()
def study(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Read, run, change and measure papers on diffusion models."""


@app.command(epilog=f"Example: study run {SOME_PAPER} -p seed=3 -p num_inference_steps=20")
def run(
    slug: Slug,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", metavar="NAME=VALUE", help="Set a parameter; repeatable."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of parameters from presets.toml.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model's name or a diffusers folder; short for -p model=.")
    ] = None,
    timeout: Timeout = 600,
    force: Annotated[
        bool, typer.Option("--force", help="Run again although a finished record exists.")
    ] = False,
) -> None:
    """Run a paper's notebook with checked parameters and keep a record."""
    from studylib import runs
    from studylib.cards import count_verdicts
    from studylib.parameters import parse_assignments

    paper_folder(slug)
    texts = list(parameter or [])
    if model is not None:
        texts.append(f"model={model}")
    given = parse_assignments(slug, texts)
    done = runs.run(slug, given, preset=preset, timeout=timeout, force=force, stream=sys.stderr)
    record = done.record
    if not done.fresh:
        typer.echo("already run with this code, these weights and parameters; --force runs it again")
    typer.echo(f"{slug} {record['run_id']}: {record['seconds']:.1f} s, {record['peak_memory_mib']:.0f} MiB")
    typer.echo(f"claims: {count_verdicts(record['claims'])}")
    for name, value in record["metrics"].items():
        typer.echo(f"  {name} = {value:.4g}")
    typer.echo(str(done.folder / "record.json"))


@app.command("list", epilog=f"Example: study list {SOME_PAPER}")
def list_papers(
    slug: Annotated[
        str | None, typer.Argument(help="Show this paper's parameters, presets and claims.")
    ] = None,
) -> None:
    """List the course, or one paper's parameters, presets and claims."""
    from studylib.cards import count_verdicts, course, load_card, load_presets, load_results
    from studylib.parameters import read_parameters

    if slug is None:
        entries = course()
        width = max(len(entry.slug) for entry in entries)
        for entry in entries:
            results = load_results(entry.slug) if entry.written else None
            state = (
                count_verdicts(results["claims"]) if results else "written" if entry.written else "planned"
            )
            typer.echo(f"{entry.order:2}  {entry.slug:{width}}  {entry.year}  {state:24}  {entry.one_line}")
        return
    card = load_card(slug)
    typer.echo(f"{card.title} ({card.authors}, {card.year})\n{card.question}\n\nparameters")
    for name, parameter in read_parameters(notebook_path(slug)).items():
        knob = card.knobs.get(name)
        limits = (
            [f"{word} {end:g}" for word, end in (("from", knob.min), ("to", knob.max)) if end is not None]
            if knob
            else []
        )
        if knob and knob.choices:
            limits = [f"one of {', '.join(map(str, knob.choices))}"]
        note = "  ".join(filter(None, [(knob.help if knob else "") or parameter.help, " ".join(limits)]))
        typer.echo(f"  {name} = {parameter.default!r}  {note}")
    typer.echo("\npresets")
    for name, values in load_presets(slug).items():
        typer.echo(f"  {name}: {', '.join(f'{key}={value}' for key, value in values.items())}")
    typer.echo("\nclaims")
    for claim in card.claims:
        typer.echo(f"  {claim.id} ({claim.kind}): {claim.sentence}")


@app.command(epilog=f"Example: study render {SOME_PAPER}")
def render(slugs: Slugs = None, timeout: Timeout = 600) -> None:
    """Execute notebooks with their defaults, in place, and write results.json and README's table."""
    from studylib.cards import count_verdicts, update_readme
    from studylib.render import render as render_one

    for slug in slugs or written_papers():
        results = render_one(slug, timeout=timeout, stream=sys.stderr)
        cost = f"{results['seconds']} s, {results['peak_memory_mib']:.0f} MiB"
        typer.echo(f"{slug}: {cost}, claims: {count_verdicts(results['claims'])}")
    typer.echo("README.md: table of papers " + ("rewritten" if update_readme() else "unchanged"))


@app.command(epilog=f"Example: study check {SOME_PAPER}")
def check(slugs: Slugs = None) -> None:
    """Run notebooks again with nbval and compare the outputs marked NBVAL_CHECK_OUTPUT."""
    from studylib.render import check as check_notebooks

    raise typer.Exit(check_notebooks(slugs or written_papers()))


@app.command(
    epilog=f"Example: study lab {SOME_PAPER} -- --allow-root",
    context_settings={"allow_extra_args": True},
)
def lab(
    context: typer.Context,
    slug: Annotated[str | None, typer.Argument(help="Open this paper's notebook.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser; without it the address is printed.")] = True,
) -> None:
    """Start JupyterLab on the notebooks; words after -- are handed on to it."""
    extra = list(context.args)
    if slug is not None and slug.startswith("-"):  # `study lab -- --option` names no paper
        extra, slug = [slug, *extra], None
    command = [sys.executable, "-m", "jupyterlab", *([] if browser else ["--no-browser"])]
    if slug is not None:
        paper_folder(slug)
        command.append(notebook_path(slug).name)
    folder = find_root() / "notebooks"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    os.execve(
        sys.executable, [*command, *extra], os.environ | import_paths()
    )  # so that Ctrl-C is JupyterLab's own


@app.command(epilog='Example: study new my_paper --title "A Paper Worth Reading"')
def new(
    slug: Annotated[str, typer.Argument(help="A short name: small letters, digits and underscores.")],
    title: Annotated[str, typer.Option(help="The paper's title.")],
) -> None:
    """Start a paper: a folder, a notebook and a test that run at once, to be rewritten step by step."""
    from studylib.new import create

    for path in create(slug, title):
        typer.echo(f"wrote {path.relative_to(find_root())}")
    typer.echo(f"next: study run {slug}; pytest tests/papers/test_{slug}.py; study render {slug}")


@app.command(epilog="Example: study doctor")
def doctor() -> None:
    """Check Python, packages, weights, devices, memory and the network, each with its remedy."""
    from studylib.doctor import examine

    failed = False
    for finding in examine():
        typer.echo(str(finding))
        failed = failed or finding.state == "fail"
    raise typer.Exit(1 if failed else 0)
