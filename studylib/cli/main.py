"""The command `study` with all its commands: importing their modules adds them to the application."""

from studylib.cli import commands, results, train  # noqa: F401
from studylib.cli.app import app

__all__ = ["app"]
