"""Tests of memory in studylib.machine: a training's need is seen although something before it needed more."""

import os
import subprocess
import sys

import pytest
import torch

from studylib.machine import hardware, peak_memory_mib, peak_of

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


def test_hardware_names_what_decides_the_last_digits():
    """Committed numbers came back on one machine and not on another: records must tell which it was."""
    found = hardware()
    assert set(found) == {"processor", "instructions", "threads", "math"} and all(found.values())
    assert found["threads"] == str(torch.get_num_threads())


def test_waiting_threads_do_not_spin_for_long():
    """Beside one busy program the default made a forward 20 times as slow; a user's own setting wins."""
    ask = "import os, studylib; print(os.environ.get('GOMP_SPINCOUNT'))"

    def told(**environment: str) -> str:
        kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        return subprocess.check_output([sys.executable, "-c", ask], env=kept | environment, text=True).strip()

    assert told().isdigit()
    assert told(GOMP_SPINCOUNT="7") == "7" and told(OMP_WAIT_POLICY="ACTIVE") == "None"
