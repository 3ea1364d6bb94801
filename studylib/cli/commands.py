"""The commands of `study` that work on papers, thin: each checks its words and calls one function."""

import os
import sys
from typing import Annotated

import typer

from studylib.cli.app import SOME_PAPER, Slug, Slugs, Timeout, app, need_paper
from studylib.cli.saving import OPTION
from studylib.errors import StudyError
from studylib.workspace import find_root, import_paths, kernelspec_path, notebook_path, written_papers


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
    plain: Annotated[bool, typer.Option("--plain", help="Start a plain kernel, not a prewarmed one.")] = False,
) -> None:
    """Run a paper's notebook with checked parameters and keep a record."""
    from studylib.cli.finished import finished
    from studylib.running import runs
    from studylib.running.parameters import parse_assignments

    need_paper(slug)
    texts = list(parameter or [])
    if model is not None:
        texts.append(f"model={model}")
    given = parse_assignments(slug, texts)
    prewarmed = False if plain else None
    done = runs.run(
        slug, given, preset=preset, timeout=timeout, force=force, prewarmed=prewarmed, stream=sys.stderr
    )
    for line in finished(slug, done):
        typer.echo(line)


@app.command(epilog=f"Example: study sweep {SOME_PAPER} -g seed=0..4 -g num_inference_steps=8,12 --jobs 2")
def sweep(
    slug: Slug,
    grid: Annotated[
        list[str],
        typer.Option("-g", "--grid", metavar="NAME=VALUES", help="A knob's values: a,b,c or 0..4; repeatable."),
    ],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", metavar="NAME=VALUE", help="Set a parameter at every point; repeatable."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of parameters from presets.toml.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time; they share the cores and, if there are several, the GPUs.")
    ] = 1,
    retries: Annotated[int, typer.Option(min=0, help="More tries for a kernel that the system killed.")] = 1,
    timeout: Timeout = 600,
    plain: Annotated[bool, typer.Option("--plain", help="Start plain kernels, not prewarmed ones.")] = False,
    on: Annotated[
        str, typer.Option(help="Where: here, ray (this machine's cluster or a new one) or ray://host:port.")
    ] = "here",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the points and stop.")] = False,
) -> None:
    """Run a notebook at every point of a grid; the same command again runs only what is missing."""
    from studylib.running import sweeps
    from studylib.running.grid import parse_grid
    from studylib.running.parameters import parse_assignments

    need_paper(slug)
    plan = sweeps.plan(slug, parse_grid(slug, grid), parse_assignments(slug, parameter or []), preset)
    if dry_run:
        for point in plan.points:
            typer.echo(f"{point.number:4}  {point.run_id}  {point.state:7}  {point.shown}")
        typer.echo(f"{len(plan.points)} points, {len(plan.missing())} to run{sweeps.estimate(plan, jobs)}")
        return
    options = {"jobs": jobs, "retries": retries, "timeout": timeout, "prewarmed": False if plain else None}
    if on != "here":
        if on != "ray" and not on.startswith("ray://"):
            raise StudyError(f"--on takes here, ray or ray://host:port, not {on!r}")
        if plan.missing():
            from studylib.running.cluster import on_ray

            options["run_calls"] = on_ray(on if on.startswith("ray://") else None)
    try:
        sweeps.run_sweep(plan, stream=sys.stderr, **options)
    except KeyboardInterrupt as error:
        typer.echo("error: interrupted; finished points are kept, the same command runs the rest", err=True)
        raise typer.Exit(130) from error
    finally:
        failed = [point for point in plan.points if point.state == "failed"]
        for point in failed:
            typer.echo(f"failed: {point.shown}: {point.error}", err=True)
        done = len(plan.points) - len(plan.missing())
        typer.echo(f"{slug} sweep {plan.sweep_id}: {done} of {len(plan.points)} points done, {len(failed)} failed")
    raise typer.Exit(1 if failed else 0)


@app.command("list", epilog=f"Example: study list {SOME_PAPER}")
def list_papers(
    slug: Annotated[
        str | None, typer.Argument(help="Show this paper's parameters, presets and claims.")
    ] = None,
) -> None:
    """List the course, or one paper's parameters, presets and claims."""
    from rich.text import Text

    from studylib.evidence.card import load_card
    from studylib.evidence.course import course
    from studylib.evidence.paper import load_presets, load_results
    from studylib.evidence.verdicts import count_verdicts
    from studylib.running.parameters import read_parameters
    from studylib.showing.listing import plain_table, show_table

    if slug is None:
        table = plain_table()
        table.add_column("", no_wrap=True, justify="right")
        for name in ("paper", "year"):
            table.add_column(name, no_wrap=True)
        for name in ("claims", "idea"):
            table.add_column(name)
        for entry in course():
            results = load_results(entry.slug) if entry.written else None
            state = count_verdicts(results["claims"]) if results else "written" if entry.written else "planned"
            table.add_row(*map(Text, (str(entry.order), entry.slug, str(entry.year), state, entry.one_line)))
        show_table(table)
        return
    need_paper(slug)
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
def render(
    slugs: Slugs = None,
    timeout: Timeout = 600,
    full: Annotated[
        bool, typer.Option("--full", help="First train at five seeds for the claims about trainings (long).")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds trained at a time with --full.")] = 1,
) -> None:
    """Execute notebooks with their defaults, in place; write results.json, README's tables and the index notebook."""
    from studylib.evidence.verdicts import count_verdicts
    from studylib.reports import lesson, models_table, readme, scoreboard
    from studylib.running.render import INDEX, render_index
    from studylib.running.render import render as render_one

    papers = [slug for slug in slugs or written_papers() if slug != INDEX]
    if full:
        from studylib.running.effects import measure_effects, trains_over_seeds

        for slug in [slug for slug in papers if slugs or trains_over_seeds(slug)]:
            measure_effects(slug, jobs=jobs, timeout=max(timeout, 3600), stream=sys.stderr)
    for slug in papers:
        results = render_one(slug, timeout=timeout, stream=sys.stderr)
        cost = f"{results['seconds']} s, {results['peak_memory_mib']:.0f} MiB"
        typer.echo(f"{slug}: {cost}, claims: {count_verdicts(results['claims'])}")
    said = {True: "rewritten", False: "unchanged", None: "no place for it there"}
    for what, module in (("table of papers", readme), ("table of models", models_table)):
        typer.echo(f"README.md: {what}: {said[module.update_readme()]}")
    changed = lesson.update_lesson()
    typer.echo(f"papers/{lesson.PAGE}: {'no paper has recorded a row' if changed is None else said[changed]}")
    typer.echo(f"papers/{scoreboard.PAGE}: {said[scoreboard.update_page()]}")
    typer.echo("index.ipynb: " + ("rewritten" if render_index(timeout=timeout, stream=sys.stderr) else "unchanged"))


@app.command(epilog=f"Example: study reproduce {SOME_PAPER}")
def reproduce(
    slug: Slug,
    timeout: Timeout = 600,
    force: Annotated[bool, typer.Option("--force", help="Run again although today's code has run already.")] = False,
) -> None:
    """Run a paper with its committed parameters again and say how far the numbers came back; exit 1 where not."""
    from studylib.reports.reproduce import reproduce as run_again

    need_paper(slug)
    found = run_again(slug, timeout=timeout, force=force, stream=sys.stderr)
    found.show()
    raise typer.Exit(1 if found.outcome == "not equal" else 0)


@app.command(epilog=f"Example: study check {SOME_PAPER}")
def check(slugs: Slugs = None) -> None:
    """Run notebooks again with nbval and compare the outputs marked NBVAL_CHECK_OUTPUT."""
    from studylib.running.render import INDEX
    from studylib.running.render import check as check_notebooks

    index = [INDEX] if notebook_path(INDEX).is_file() else []
    raise typer.Exit(check_notebooks(slugs or [*written_papers(), *index]))


@app.command(
    epilog=f"Example: study lab {SOME_PAPER} -- --allow-root",
    context_settings={"allow_extra_args": True},
)
def lab(
    context: typer.Context,
    slug: Annotated[str | None, typer.Argument(help="Open this paper's notebook.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser; without it the address is printed.")] = True,
) -> None:
    """Start JupyterLab on a notebook, or on the map of the course; words after -- are handed on to it."""
    from studylib.running.render import INDEX

    extra = list(context.args)
    if slug is not None and slug.startswith("-"):  # `study lab -- --option` names no paper
        extra, slug = [slug, *extra], None
    command = [sys.executable, "-m", "jupyterlab", *([] if browser else ["--no-browser"]), OPTION]
    if slug is not None:
        need_paper(slug)
        command.append(f"notebooks/{slug}.ipynb")
    elif notebook_path(INDEX).is_file():
        command.append(f"notebooks/{INDEX}.ipynb")
    folder = find_root() / "notebooks"
    folder.mkdir(exist_ok=True)
    os.chdir(folder.parent)  # so that notes, cards and results beside the notebooks can be opened as well
    os.execve(
        sys.executable, [*command, *extra], os.environ | import_paths() | kernelspec_path()
    )  # so that Ctrl-C is JupyterLab's own


@app.command(epilog='Example: study new my_paper --title "A Paper Worth Reading"')
def new(
    slug: Annotated[str, typer.Argument(help="A short name: small letters, digits and underscores.")],
    title: Annotated[str, typer.Option(help="The paper's title.")],
) -> None:
    """Start a paper: a folder, a notebook and a test that run at once, to be rewritten step by step."""
    from studylib.cli.new import create

    for path in create(slug, title):
        typer.echo(f"wrote {path.relative_to(find_root())}")
    typer.echo(f"next: study run {slug}; pytest tests/papers/test_{slug}.py; study render {slug}")


@app.command(epilog="Example: study doctor")
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="First install the kernel `study` for all Jupyter programs of this Python.")
    ] = False,
) -> None:
    """Check Python, packages, weights, devices, memory and the network, each with its remedy."""
    from studylib.cli.doctor import examine, install_kernelspec

    if fix:
        typer.echo(f"installed {install_kernelspec()}")
    failed = False
    for finding in examine():
        typer.echo(str(finding))
        failed = failed or finding.state == "fail"
    raise typer.Exit(1 if failed else 0)
