"""Committed notebooks are executed ones: what they print must still be what they print."""

import pytest

from studylib.running.render import check
from studylib.workspace import written_papers


@pytest.mark.timeout(900)
@pytest.mark.parametrize("slug", written_papers())
def test_notebook_still_says_the_same(slug):
    """nbval runs the notebook again and compares the cells marked for it: exact values and verdicts."""
    assert check([slug]) == 0
