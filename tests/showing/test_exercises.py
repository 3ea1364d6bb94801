"""A notebook with unsolved exercises must still run to its end and say what is missing."""

import pytest
import torch

from studylib.showing.exercises import close, expect, shape_of, tensors, try_answer


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


def test_answers_are_compared_by_value_and_shape():
    """A tolerance for each paper would let one exercise pass what another refuses; rates of 1e-4 are told apart."""
    right = torch.tensor([1e-4, 2e-4])
    assert close(right + 1e-9, right) and close(0.5, torch.tensor(0.5)) and close(torch.zeros(2), torch.zeros(2))
    assert not close(right + 1e-7, right) and not close(right[:1], right) and not close(float("nan"), 1.0)
    assert not close(torch.tensor([1.0, 1.0]), torch.tensor(1.0))


def test_objections_say_what_was_returned():
    """A reader who returns the wrong kind of thing is told what was sought."""
    expect(True, "never said")
    with pytest.raises(AssertionError, match="too small"):
        expect(0, "too small")
    assert shape_of(torch.zeros(2, 3)) == "shape (2, 3)" and shape_of([1]) == "a list"
    assert tensors([torch.zeros(1), torch.ones(1)], ("A", "B"))[1] == 1
    for answer in (None, torch.zeros(2), (torch.zeros(1),), (torch.zeros(1), 2.0)):
        with pytest.raises(AssertionError, match=r"return \(A, B\), each a tensor"):
            tensors(answer, ("A", "B"))
