"""What only a CUDA device can show: half precision, offload, and the same pictures as on the CPU."""

import numpy as np
import pytest
import torch

from papers.style_aligned import evaluation as ev
from papers.style_aligned.method import StyleAlignedConfig, generate, starting_latents
from studylib.models.load import describe, load

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SAMPLING = {"num_inference_steps": 8, "guidance_scale": 5.0}


@pytest.mark.parametrize("dtype, close", [(torch.float32, 0.02), (torch.float16, 0.06)])
def test_sets_agree_with_the_cpu(dtype, close):
    """The noise is drawn on the CPU, so a GPU must draw nearly the same set; the mean difference is of 1."""
    pictures = {}
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        pipe = load("tiny", device=device, dtype=kind)
        assert device in describe(pipe)
        images = generate(pipe, ev.PROMPTS[:4], StyleAlignedConfig(), seed=3, **SAMPLING)
        pictures[device] = np.stack([np.asarray(image, dtype=float) / 255 for image in images])
    assert np.abs(pictures["cpu"] - pictures["cuda"]).mean() < close


def test_reference_is_a_fixed_point_in_half_precision():
    """The identity the method rests on must survive fp16 and the fused attention kernels of a GPU."""
    pipe = load("tiny", device="cuda", dtype=torch.float16)
    noise = starting_latents(pipe, 3, 0)
    shared, alone = (ev.set_latents(pipe, c, ev.PROMPTS[:3], noise, **SAMPLING) for c in (StyleAlignedConfig(), None))
    assert (shared[0] - alone[0]).abs().max() < 0.05 < (shared[1] - alone[1]).abs().max()
