"""Tests of memory in studylib.machine: a training's need is seen although something before it needed more."""

import sys

import pytest
import torch

from studylib.machine import peak_memory_mib, peak_of

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the system's mark cannot be reset")
def test_the_peak_of_a_block_is_its_own():
    """Freed memory of earlier work must not hide what a block needs, nor may the process's peak be forgotten."""
    big = torch.ones(400 * MIB // 4)
    del big
    highest = peak_memory_mib()
    with peak_of() as peak:
        part = torch.ones(100 * MIB // 4)
        del part
    assert 90 < peak.mib < 200
    assert peak_memory_mib() >= highest > 400


def test_a_block_that_fails_is_an_error_of_its_own():
    """Measuring must not swallow what goes wrong inside."""
    with pytest.raises(RuntimeError, match="inside"), peak_of():
        raise RuntimeError("inside")
