"""Tests of papers/dreambooth: the loss is the paper's, and training leaves the pipeline as it was."""


import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_pipelines import pictures

from papers.dreambooth.method import (
    DreamBoothConfig,
    draw_batches,
    dreambooth_loss,
    prior_preservation_loss,
    train,
    trained_parameters,
)
from studylib.denoisers.denoiser import Denoiser
from studylib.learning.weights import swapped

SMALL = {"max_train_steps": 4, "learning_rate": 1e-3, "train_batch_size": 2, "train_text_encoder": False}


def draw(pipe) -> np.ndarray:
    image = pipe("a sks cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np")
    return image.images[0]


def test_training_leaves_the_pipeline_as_it_was(pipe):
    """Off is identity, on is different: outside the block the very same picture, inside another one."""
    before = draw(pipe)
    result = train(pipe, pictures(0), pictures(1), DreamBoothConfig(**SMALL), keep=[2])
    assert np.array_equal(draw(pipe), before)
    with swapped(pipe, result.weights):
        assert not np.array_equal(draw(pipe), before)
    with pytest.raises(RuntimeError), swapped(pipe, result.snapshots[2]):
        raise RuntimeError
    assert np.array_equal(draw(pipe), before)
    assert len(result.history.rows) == 4 and result.history.parameters == pipe.unet.num_parameters()


def test_every_weight_of_the_denoiser_is_trained_and_nothing_else(pipe):
    """The paper tunes all of it, time embedding and norms included; the text encoder only when asked."""
    frozen = {name: weight.clone() for name, weight in pipe.text_encoder.named_parameters()}
    result = train(pipe, pictures(0), pictures(1), DreamBoothConfig(**SMALL))
    own = dict(pipe.unet.named_parameters())
    same = [name for name in own if torch.equal(result.weights[f"unet.{name}"], own[name])]
    assert len(result.weights) == len(own) and not same
    both = trained_parameters(pipe, DreamBoothConfig(train_text_encoder=True))
    assert set(both) - set(result.weights) == {f"text_encoder.{name}" for name in frozen}
    result = train(pipe, pictures(0), pictures(1), DreamBoothConfig(**SMALL | {"train_text_encoder": True}))
    changed = [name for name in frozen if not torch.equal(result.weights[f"text_encoder.{name}"], frozen[name])]
    assert any("token_embedding" in name for name in changed)
    assert all(torch.equal(weight, frozen[name]) for name, weight in pipe.text_encoder.named_parameters())


@pytest.mark.parametrize("prior", [True, False])
def test_the_loss_is_that_of_the_usual_script(pipe, prior):
    """Prediction and target split in two after one forward pass, two means, the second times lambda."""
    config = DreamBoothConfig(with_prior_preservation=prior, prior_loss_weight=0.3, train_batch_size=3)
    instance, class_ = Denoiser(pipe).encode(pictures(0)), Denoiser(pipe).encode(pictures(1)) if prior else None
    batch = draw_batches(pipe, instance, class_, config)(torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = dreambooth_loss(pipe, config)(batch)["loss"]
        halves = ["instance", "class"] if prior else ["instance"]
        parts = ("latents", "noise", "timesteps")
        latents, noise, steps = (torch.cat([batch[f"{half}_{part}"] for half in halves]) for part in parts)
        embeds = pipe.encode_prompt(["a sks cat"] * 3 + ["a cat"] * 3 * prior, "cpu", 1, False)[0]
        prediction = pipe.unet(pipe.scheduler.add_noise(latents, noise, steps), steps, embeds).sample
        parts = zip(prediction.chunk(len(halves)), noise.chunk(len(halves)), strict=True)
        losses = [F.mse_loss(a, b) for a, b in parts]
    assert torch.allclose(found, losses[0] + (0.3 * losses[1] if prior else 0), atol=1e-6)


def test_subject_and_class_have_noise_and_timesteps_of_their_own(pipe):
    """The paper's t' and epsilon' are independent of t and epsilon; and the class does not move the subject's draws."""
    config = DreamBoothConfig(train_batch_size=8)
    instance, class_ = Denoiser(pipe).encode(pictures(0)), Denoiser(pipe).encode(pictures(1))
    with_prior = draw_batches(pipe, instance, class_, config)(torch.Generator().manual_seed(0))
    without = draw_batches(pipe, instance, None, config)(torch.Generator().manual_seed(0))
    assert not torch.equal(with_prior["instance_timesteps"], with_prior["class_timesteps"])
    assert not torch.equal(with_prior["instance_noise"], with_prior["class_noise"])
    assert len(set(with_prior["instance_timesteps"].tolist())) > 4
    assert all(torch.equal(rows, with_prior[name]) for name, rows in without.items())


def test_min_snr_weighs_the_subject_with_its_own_timesteps():
    """One weight per picture of the subject. The usual script weighs with those of subject and class together: for a
    batch of one that broadcasts silently, for more it fails."""
    errors, weights = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.1])
    value = prior_preservation_loss(errors, torch.tensor([10.0, 20.0]), 0.1, weights)
    assert value == pytest.approx((0.5 * 1 + 0.1 * 3) / 2 + 0.1 * 15)
    assert prior_preservation_loss(errors, None, 1.0) == pytest.approx(2.0)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_min_snr_trains_at_any_batch_size(pipe, batch_size):
    """The first step sees the same batch as without: weights below 1 can only lower its loss."""
    settings = SMALL | {"train_batch_size": batch_size, "max_train_steps": 4}
    plain = train(pipe, pictures(0), pictures(1), DreamBoothConfig(**settings)).history.column()
    weighted = train(pipe, pictures(0), pictures(1), DreamBoothConfig(snr_gamma=0.01, **settings)).history.column()
    assert weighted[0] < plain[0]


def test_words_of_the_prompts():
    """The class noun right, wrong or left out, as the paper's table has them."""
    assert DreamBoothConfig().subject == "a sks cat" and DreamBoothConfig().class_prompt == "a cat"
    assert DreamBoothConfig(class_noun="").subject == "a sks"
    assert DreamBoothConfig(identifier="red", class_noun="car").subject == "a red car"


@pytest.mark.parametrize("wrong", [
    {"prior_loss_weight": -1.0}, {"max_train_steps": 0}, {"learning_rate": float("nan")}, {"snr_gamma": True},
])  # fmt: skip
def test_config_refuses_what_is_out_of_range(wrong):
    """Before a training of a minute, not after."""
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        DreamBoothConfig(**wrong)
