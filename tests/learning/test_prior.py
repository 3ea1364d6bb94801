"""Batches of subject and class: each row on its own, and one loss for both halves."""

import pytest
import torch

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import between, denoising_errors
from studylib.learning.prior import joined_halves, prior_batches
from tests.denoisers.tiny_transformers import flux
from tests.tiny_pipelines import sd


def latents(value: float, count: int = 3) -> LatentDistribution:
    return LatentDistribution(torch.full((count, 4, 8, 8), value), torch.zeros(count, 4, 8, 8))


@pytest.mark.parametrize("make", [sd, flux])
def test_subject_and_class_are_drawn_apart(make):
    """Noise and timesteps of their own; the class does not move the subject's draws."""
    denoiser = Denoiser(make())
    both, alone = (
        prior_batches(denoiser, latents(1.0), prior, 6)(torch.Generator().manual_seed(0))
        for prior in (latents(2.0), None)
    )
    assert all(torch.equal(rows, both[name]) for name, rows in alone.items())
    assert not torch.equal(both["instance_noise"], both["class_noise"])
    assert both["instance_latents"].eq(1).all() and both["class_latents"].eq(2).all()
    halves, rows = joined_halves(both)
    assert halves == ["instance", "class"] and rows["latents"].shape == (12, 4, 8, 8)
    assert set(rows) == {"latents", "noise", "timesteps", "index"} and joined_halves(alone)[0] == ["instance"]
    late = prior_batches(denoiser, latents(1.0), None, 6, between(0.9, 1.0))(torch.Generator().manual_seed(0))
    assert late["instance_timesteps"].min() > 800
    with torch.no_grad():
        prompt = denoiser.prompt(["cat"], **({} if make is sd else {"max_sequence_length": 8}))
        assert denoising_errors(denoiser, rows["latents"], prompt, rows["noise"], rows["timesteps"]).shape == (12,)
