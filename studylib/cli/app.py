"""The application behind the command `study`: how errors are shown, and the words its commands share."""

import io
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from studylib import __version__
from studylib.errors import StudyError
from studylib.files import open_standard_files
from studylib.workspace import find_root, paper_folder, written_papers


class StudyGroup(TyperGroup):
    """Reports errors in one line and an exit code; `--debug`, anywhere, shows the traceback as well."""

    def main(self, args: list[str] | None = None, **options: Any) -> Any:
        """Run the command line."""
        open_standard_files()
        for stream in (sys.stdout, sys.stderr):  # a letter that a terminal cannot show must not end a command
            if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
                stream.reconfigure(errors="backslashreplace")
        given = list(sys.argv[1:] if args is None else args)
        self.debug = "--debug" in given
        for word in given:
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                self.report(f"{word!r} is not valid UTF-8. Write it in another encoding, or rename that file")
                raise SystemExit(2)
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
        shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(line.split()))
        typer.echo(f"error: {shown}", err=True)


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


def need_paper(slug: str) -> None:
    """StudyError for a paper that is not written; it says so of one that is planned."""
    from studylib.evidence.course import course

    planned = next((entry for entry in course() if entry.slug == slug and not entry.written), None)
    if planned is None:
        paper_folder(slug)
        return
    remedy = f"Written so far: {', '.join(written_papers()) or 'none'}; `study new {slug}` starts it"
    raise StudyError(f"{slug} is planned: {planned.title} ({planned.year}) has no notebook yet", remedy)


def show_version(wanted: bool) -> None:
    """Print the version and the workspace, then end."""
    if wanted:
        typer.echo(f"study {__version__}, workspace {find_root()}")
        raise typer.Exit


@app.callback()
def study(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show version and workspace.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Read, run, change and measure papers on diffusion models."""
