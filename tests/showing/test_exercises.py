"""A notebook with unsolved exercises must still run to its end and say what is missing."""

import pytest

from studylib.showing.exercises import try_answer


def check(answer):
    if answer(2) != 4:
        raise AssertionError("two and two")
    print("right")


def test_verdicts(capsys):
    """The reader sees the checker's reason, or that nothing was written yet; other errors are the reader's own."""

    def empty(x):
        raise NotImplementedError

    assert try_answer(check, lambda x: 2 * x) and capsys.readouterr().out == "right\n"
    assert not try_answer(check, lambda x: x) and capsys.readouterr().out == "not yet: two and two\n"
    assert not try_answer(check, empty) and "write empty first" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError):
        try_answer(check, lambda x: x / 0)
