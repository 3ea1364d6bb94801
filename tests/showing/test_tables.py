"""Tables are what notebooks print beside pictures: their text must line up and name every column."""

import pytest

from studylib.showing.tables import Table


def test_text_and_html_hold_the_same_numbers():
    """A missing number stays blank, the others keep their column."""
    table = Table({"a": {"x": 1.0, "y": 0.5}, "longer <name>": {"y": 2.0}}, digits=1)
    assert repr(table).splitlines() == ["                 x    y", "a              1.0  0.5", "longer <name>       2.0"]
    assert "longer &lt;name&gt;" in table._repr_html_() and table._repr_html_().count("<td>") == 4


def test_names_cannot_steer_a_terminal():
    """Names of metrics come from records of others."""
    table = Table({"a\x1b[31m": {"x\x07": 1.0}})
    assert "\x1b" not in repr(table) and "\x07" not in repr(table) and "a\\x1b[31m" in repr(table)


def test_empty_table_says_what_it_wants():
    """An empty table in a notebook would show nothing."""
    with pytest.raises(ValueError, match="no rows"):
        Table({})
