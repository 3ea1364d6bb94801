"""The promise of `Denoiser`: views, inversion and a training step are the same calls for every family of networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from studylib.denoisers.attention import record_attention
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.inversion import ddim_inversion, sample_latents
from studylib.denoisers.noise import denoising_errors, fixed_errors, noised
from studylib.learning.training import TrainingConfig, fit
from studylib.learning.weights import named_weights, restored, swapped
from studylib.measuring.subject import prediction_drift
from studylib.measuring.views import draw_views
from tests.denoisers.tiny_transformers import TRANSFORMERS
from tests.tiny_pipelines import sd

PIPELINES = {"sd": sd, **TRANSFORMERS}
SAMPLING = {"num_inference_steps": 2}


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request):
    return PIPELINES[request.param]()


def photos(count: int = 2) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def test_views(pipe):
    """Drawn by the pipeline from noise of their own, the same for the same seed."""
    one, two = (draw_views(pipe, "dog", "cat", seed, count=2, contexts=(), **SAMPLING) for seed in (0, 0))
    assert [len(one.of_class), len(one.of_subject)] == [2, 2] and one.of_class[0].size == (16, 16)
    for a, b in zip(one.of_class + one.of_subject, two.of_class + two.of_subject, strict=True):
        assert a.tobytes() == b.tobytes()
    assert one.of_class[0].tobytes() != one.of_subject[0].tobytes() != one.of_subject[1].tobytes()


def test_inversion(pipe):
    """A picture to noise, and the way back, with attention recorded on both."""
    denoiser = Denoiser(pipe)
    with torch.no_grad():
        trajectory = ddim_inversion(denoiser, photos(1)[0], "cat", num_inference_steps=2)
    assert trajectory.shape == (3, *denoiser.shape) and trajectory.isfinite().all()
    assert torch.equal(trajectory[-1:], denoiser.encode(photos(1)).mean)
    where = "joint" if denoiser.kind == "flow" else "self"
    with record_attention(denoiser.network, where=where) as record:
        back = sample_latents(denoiser, trajectory[:1], "cat", num_inference_steps=2)
    assert record.steps == [0, 1] and denoiser.decode(back)[0].size == (16, 16)


def test_a_training_step(pipe):
    """One step lowers the loss at fixed noise, drift sees it, and the pipeline is put back."""
    denoiser = Denoiser(pipe)
    latents = denoiser.encode(photos())
    prompt = denoiser.prompt(["dog"]).detach()
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    weights = named_weights(pipe, [part])

    def draw(generator):
        return noised(denoiser, latents, torch.tensor([0, 1]), generator)

    def loss(batch):
        return denoising_errors(denoiser, batch["latents"], prompt, batch["noise"], batch["timesteps"]).mean()

    before = fixed_errors(denoiser, latents, "dog", levels=2)
    with restored(weights):
        history = fit(weights, draw, loss, TrainingConfig(steps=2, learning_rate=1e-3), keep=(2,))
        after = fixed_errors(denoiser, latents, "dog", levels=2)
    assert len(history.rows) == 2 and after.mean() < before.mean()
    assert torch.equal(fixed_errors(denoiser, latents, "dog", levels=2), before)
    drift = prediction_drift(pipe, swapped(pipe, history.snapshots[2]), latents, "cat")
    assert drift.shape == (2,) and drift.min() > 0
