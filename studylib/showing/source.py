"""The source of the code that really runs, as a notebook shows it."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from html import escape
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer


class Source:
    """The source of one function or class: coloured in a notebook, plain when printed."""

    def __init__(self, code: str, place: str) -> None:
        self.code = code
        self.place = place

    def __repr__(self) -> str:
        return f"# {self.place}\n{self.code}"

    def _repr_html_(self) -> str:
        formatter = HtmlFormatter(noclasses=True, style="friendly", nowrap=True)  # no style sheet to ship
        return (
            '<div style="border-left:3px solid #0072B2;background:#fff;color:#222;padding:2px 10px">'
            f'<div style="color:#666;font-size:smaller">{escape(self.place)}</div>'
            '<pre style="background:#fff;color:#222;margin:4px 0;line-height:1.35">'
            f"{highlight(self.code, PythonLexer(), formatter)}</pre></div>"
        )


def show_source(thing: Callable[..., Any] | type, *, docstring: bool = True) -> Source:
    """Show the source of a function, method or class as it was imported, with file and line.

    Looks through `functools.partial` and decorators that keep `__wrapped__`. `docstring=False` leaves the
    docstring out. Raises TypeError for what has no Python source.
    """
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = inspect.unwrap(thing)
    try:
        lines, first = inspect.getsourcelines(thing)
    except (OSError, TypeError) as error:
        raise TypeError(f"show_source: no Python source for {thing!r}; pass a function or class") from error
    code = textwrap.dedent("".join(lines)).rstrip() + "\n"
    module = thing.__module__
    # From the module's name, because a file's path would differ from machine to machine.
    file = "this notebook" if module == "__main__" else module.replace(".", "/") + ".py"
    return Source(code if docstring else _without_docstring(code), f"{file}, line {first}")


def _without_docstring(code: str) -> str:
    body = ast.parse(code).body[0].body
    if len(body) < 2 or ast.get_docstring(ast.parse(code).body[0]) is None:
        return code
    lines = code.splitlines(keepends=True)
    return "".join(lines[: body[0].lineno - 1] + lines[body[0].end_lineno :])
