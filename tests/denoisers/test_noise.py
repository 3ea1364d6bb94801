"""What the papers' training losses are built of: cached latents and embeddings, noise and velocity, min-SNR."""

import pytest
import torch
from PIL import Image
from tiny_pipelines import sd, sdxl

from studylib.denoisers.latents import encode_images
from studylib.denoisers.noise import (
    at_fixed_levels,
    denoising_errors,
    draw_timesteps,
    fixed_errors,
    min_snr_weights,
    noised,
)
from studylib.denoisers.prompts import encode_prompts


@pytest.fixture(scope="module")
def pipe():
    return sd()


@pytest.fixture(scope="module")
def pictures():
    return [Image.effect_noise((20, 30), 60).convert("RGB") for _ in range(3)]


def test_drawing_from_cached_latents_is_encoding_afresh(pipe, pictures):
    """Caching may only save time: the same noise must give what the autoencoder gives when it is asked each step."""
    cached = encode_images(pipe, pictures, batch_size=2)
    index = torch.tensor([2, 0])
    found = cached.sample(index, torch.Generator().manual_seed(0))
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pixels = pipe.image_processor.preprocess([pictures[2], pictures[0]], height=size, width=size)
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
    expected = posterior.sample(torch.Generator().manual_seed(0)) * pipe.vae.config.scaling_factor
    assert found.shape == (2, 4, 8, 8) and torch.allclose(found, expected, atol=1e-6)


def test_cached_embeddings_are_the_pipelines_own(pipe):
    """The prompt is encoded as at sampling: padded, with no second, empty half."""
    cached = encode_prompts(pipe, ["a cat", "a dog"])
    own = pipe.encode_prompt(["a cat", "a dog"], "cpu", 1, True)[0]
    assert torch.equal(cached, own) and not cached.requires_grad


def test_a_pipeline_with_two_text_encoders_is_refused():
    """SDXL's encode_prompt takes other arguments at the same places: it would run, on the wrong prompts."""
    with pytest.raises(ValueError, match="not StableDiffusionXLPipeline"):
        encode_prompts(sdxl(), ["a cat"])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_error_is_that_of_a_plain_training_step(pipe, kind):
    """Per sample, so that weights can be put on timesteps; its mean is what everyone's training script minimises."""
    pipe = pipe.__class__(**pipe.components, requires_safety_checker=False)
    pipe.scheduler = pipe.scheduler.__class__.from_config(pipe.scheduler.config, prediction_type=kind)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    timesteps = draw_timesteps(pipe, 3, generator)
    embeds = encode_prompts(pipe, ["a", "b", "c"])
    with torch.no_grad():
        errors = denoising_errors(pipe, latents, embeds, noise, timesteps)
        noised = pipe.scheduler.add_noise(latents, noise, timesteps)
        prediction = pipe.unet(noised, timesteps, embeds).sample
        target = noise if kind == "epsilon" else pipe.scheduler.get_velocity(latents, noise, timesteps)
    assert errors.shape == (3,)
    assert torch.allclose(errors.mean(), torch.nn.functional.mse_loss(prediction, target), atol=1e-6)


def test_a_scheduler_that_predicts_pictures_is_refused(pipe):
    """Training against the wrong target would run, and teach nonsense."""
    other = pipe.__class__(**pipe.components, requires_safety_checker=False)
    other.scheduler = pipe.scheduler.__class__.from_config(pipe.scheduler.config, prediction_type="sample")
    latents = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="'sample'"):
        denoising_errors(other, latents, encode_prompts(other, ["a"]), latents, torch.tensor([5]))


def test_min_snr_weights_follow_the_formula(pipe):
    """min(SNR, gamma) / SNR from the noise schedule itself: 1 where there is much noise, small where little."""
    timesteps = torch.tensor([0, 300, 999])
    alphas = pipe.scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    weights = min_snr_weights(pipe, timesteps, 5.0)
    assert torch.allclose(weights, torch.minimum(snr, torch.tensor(5.0)) / snr)
    assert weights[2] == 1 and weights[0] < 0.1


def test_each_picture_of_a_batch_has_noise_and_a_timestep_of_its_own(pipe, pictures):
    """The same picture twice in a batch must not be noised alike; the same seed must give the same batch."""
    cached = encode_images(pipe, pictures)
    index = torch.zeros(6, dtype=torch.long)
    one, two = (noised(pipe, cached, index, torch.Generator().manual_seed(3)) for _ in range(2))
    assert {name: tuple(rows.shape) for name, rows in one.items()} == {
        "latents": (6, 4, 8, 8), "noise": (6, 4, 8, 8), "timesteps": (6,)
    }  # fmt: skip
    assert all(torch.equal(rows, two[name]) for name, rows in one.items())
    assert len(one["noise"].flatten(1).unique(dim=0)) == 6 and len(one["timesteps"].unique()) > 1


def test_fixed_errors_are_the_loss_without_luck(pipe, pictures):
    """Repeatable and free of what else is in the batch: a picture measured alone has the value it had beside others."""
    cached = encode_images(pipe, pictures)
    one, again = (fixed_errors(pipe, cached, "a cat", levels=4) for _ in range(2))
    asked = at_fixed_levels(pipe, cached.mean, 0, 4)
    embeds = encode_prompts(pipe, ["a cat"]).expand(12, -1, -1)
    with torch.no_grad():
        plain = denoising_errors(pipe, asked["latents"], embeds, asked["noise"], asked["timesteps"])
    assert one.shape == (3,) and torch.equal(one, again)
    assert torch.allclose(one, plain.reshape(3, 4).mean(dim=1), atol=1e-6)
    assert asked["timesteps"].tolist() == [125, 375, 625, 875] * 3
