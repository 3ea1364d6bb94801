"""What the papers' training losses are built of: cached latents and embeddings, noise and velocity, min-SNR."""

import pytest
import torch
from PIL import Image

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.noise import (
    at_fixed_levels,
    between,
    cubic,
    denoising_errors,
    draw_timesteps,
    fixed_errors,
    fixed_predictions,
    logit_normal,
    min_snr_weights,
    noised,
    predict_in_parts,
    uniform,
)
from tests.denoisers.tiny_transformers import TRANSFORMERS
from tests.tiny_pipelines import scheduler, sd


@pytest.fixture(scope="module")
def pipe():
    return sd()


@pytest.fixture(scope="module")
def pictures():
    return [Image.effect_noise((20, 30), 60).convert("RGB") for _ in range(3)]


def test_drawing_from_cached_latents_is_encoding_afresh(pipe, pictures):
    """Caching may only save time: the same noise must give what the autoencoder gives when it is asked each step."""
    cached = Denoiser(pipe).encode(pictures, batch_size=2)
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
    cached = Denoiser(pipe).prompt(["a cat", "a dog"]).detach().embeds
    own = pipe.encode_prompt(["a cat", "a dog"], "cpu", 1, True)[0]
    assert torch.equal(cached, own) and not cached.requires_grad


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_error_is_that_of_a_plain_training_step(pipe, kind):
    """Per sample, so that weights can be put on timesteps; bit for bit what a training script computes by hand."""
    pipe = pipe.__class__(**pipe.components, requires_safety_checker=False)
    pipe.scheduler = pipe.scheduler.__class__.from_config(pipe.scheduler.config, prediction_type=kind)
    generator, denoiser = torch.Generator().manual_seed(0), Denoiser(pipe)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    timesteps = draw_timesteps(denoiser, 3, generator)
    with torch.no_grad():
        errors = denoising_errors(denoiser, latents, denoiser.prompt(["a", "b", "c"]), noise, timesteps)
        noised = pipe.scheduler.add_noise(latents, noise, timesteps)
        embeds = pipe.encode_prompt(["a", "b", "c"], "cpu", 1, False)[0]
        prediction = pipe.unet(noised, timesteps, embeds).sample
        target = noise if kind == "epsilon" else pipe.scheduler.get_velocity(latents, noise, timesteps)
    assert torch.equal(errors, (prediction - target).square().mean(dim=(1, 2, 3)))
    assert torch.allclose(errors.mean(), torch.nn.functional.mse_loss(prediction, target), atol=1e-6)


def test_conditions_reach_the_network(pipe):
    """A condition changes the loss as it changes the prediction; one that cannot be taken is refused."""
    denoiser, generator = Denoiser(pipe), torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    prompt, mask = denoiser.prompt(["a b c"]).detach(), torch.ones(2, 16)
    mask[:, 2:] = 0
    plain, masked = (
        denoising_errors(denoiser, latents, prompt, noise, torch.tensor([5, 500]), **told)
        for told in ({}, {"text_mask": mask})
    )
    assert not torch.allclose(plain, masked, atol=1e-6)
    with pytest.raises(TypeError, match="cannot take 'sizes'"):
        denoising_errors(denoiser, latents, prompt, noise, torch.tensor([5, 500]), sizes=torch.zeros(6))


def test_a_scheduler_that_predicts_pictures_is_refused(pipe):
    """Training against the wrong target would run, and teach nonsense."""
    other = pipe.__class__(**pipe.components, requires_safety_checker=False)
    other.scheduler = pipe.scheduler.__class__.from_config(pipe.scheduler.config, prediction_type="sample")
    latents, denoiser = torch.zeros(1, 4, 8, 8), Denoiser(other)
    with pytest.raises(ValueError, match="'sample'"):
        denoising_errors(denoiser, latents, denoiser.prompt(["a"]), latents, torch.tensor([5]))


@pytest.mark.parametrize("name", ["sd", "flux", "sd3"])
def test_timesteps_are_drawn_by_a_function(name):
    """Uniform, cubic, a range, logit-normal: each as dense as it should be; a flow's are those of its schedule."""
    denoiser = Denoiser({"sd": sd, **TRANSFORMERS}[name]())
    drawn = {
        label: draw_timesteps(denoiser, 20_000, torch.Generator().manual_seed(0), density)
        for label, density in {
            "uniform": uniform, "cubic": cubic, "between": between(0.2, 0.4), "logit": logit_normal(),
        }.items()
    }
    levels = denoiser.training_timesteps
    place = {label: torch.searchsorted(levels, times) / 1000 for label, times in drawn.items()}  # in [0, 1)
    assert len(levels) == 1000 and bool((levels.diff() > 0).all())
    assert all(torch.isin(times, levels).all() for times in drawn.values())
    for quantile in (0.1, 0.5, 0.9):
        found = {label: float(torch.quantile(places, quantile)) for label, places in place.items()}
        assert found["uniform"] == pytest.approx(quantile, abs=0.02)
        assert found["cubic"] == pytest.approx(1 - (1 - quantile) ** 3, abs=0.02)  # of 1 - u^3
        assert found["between"] == pytest.approx(0.2 + 0.2 * quantile, abs=0.01)
        logit = torch.sigmoid(torch.special.ndtri(torch.tensor(quantile)))
        assert found["logit"] == pytest.approx(float(logit), abs=0.02)
    assert float(place["between"].min()) >= 0.2 and float(place["between"].max()) < 0.4
    for low, high in ((0.5, 0.5), (-0.1, 0.3), (0.2, 1.1)):
        with pytest.raises(ValueError, match="0 <= low < high <= 1"):
            between(low, high)


def test_min_snr_weights_follow_the_formula(pipe):
    """min(SNR, gamma) / SNR from the noise schedule itself: 1 where there is much noise, small where little."""
    timesteps = torch.tensor([0, 300, 999])
    alphas = pipe.scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    weights = min_snr_weights(Denoiser(pipe), timesteps, 5.0)
    assert torch.allclose(weights, torch.minimum(snr, torch.tensor(5.0)) / snr)
    assert weights[2] == 1 and weights[0] < 0.1
    with pytest.raises(ValueError, match="predicts a flow"):
        min_snr_weights(Denoiser(TRANSFORMERS["flux"]()), timesteps, 5.0)


@pytest.mark.parametrize("kind, last", [("epsilon", 1.0), ("v_prediction", 0.0)])
def test_min_snr_at_zero_terminal_snr_is_its_limit(kind, last):
    """A schedule rescaled to end in pure noise has an SNR of zero there: zero over zero made the whole loss nan."""
    pipe = sd()
    pipe.scheduler = scheduler(rescale_betas_zero_snr=True, prediction_type=kind)
    weights = min_snr_weights(Denoiser(pipe), torch.tensor([0, 500, 999]), 5.0)
    assert bool(weights.isfinite().all()) and weights[2] == pytest.approx(last, abs=1e-6)


def test_each_picture_of_a_batch_has_noise_and_a_timestep_of_its_own(pipe, pictures):
    """The same picture twice in a batch must not be noised alike; the same seed must give the same batch."""
    cached = Denoiser(pipe).encode(pictures)
    index = torch.zeros(6, dtype=torch.long)
    one, two = (noised(Denoiser(pipe), cached, index, torch.Generator().manual_seed(3)) for _ in range(2))
    assert {name: tuple(rows.shape) for name, rows in one.items()} == {
        "latents": (6, 4, 8, 8), "noise": (6, 4, 8, 8), "timesteps": (6,)
    }  # fmt: skip
    assert all(torch.equal(rows, two[name]) for name, rows in one.items())
    assert len(one["noise"].flatten(1).unique(dim=0)) == 6 and len(one["timesteps"].unique()) > 1


def test_fixed_errors_are_the_loss_without_luck(pipe, pictures):
    """Repeatable and free of what else is in the batch: a picture measured alone has the value it had beside others."""
    denoiser = Denoiser(pipe)
    cached = denoiser.encode(pictures)
    one, again = (fixed_errors(denoiser, cached, "a cat", levels=4) for _ in range(2))
    asked = at_fixed_levels(denoiser, cached.mean, 0, 4)
    with torch.no_grad():
        plain = denoising_errors(
            denoiser, asked["latents"], denoiser.prompt(["a cat"]), asked["noise"], asked["timesteps"]
        )
        predicted = fixed_predictions(denoiser, cached.mean, "a cat", levels=4)
    assert one.shape == (3,) and torch.equal(one, again)
    assert torch.allclose(one, plain.reshape(3, 4).mean(dim=1), atol=1e-6)
    assert torch.allclose((predicted - asked["noise"]).square().mean(dim=(1, 2, 3)), plain, atol=1e-6)
    assert asked["timesteps"].tolist() == [125, 375, 625, 875] * 3


def test_parts_are_the_whole(pipe, pictures):
    """Many rows at a time need the memory of all of them; one prompt for all, or one a row, in any number of parts."""
    denoiser = Denoiser(pipe)
    asked = at_fixed_levels(denoiser, denoiser.encode(pictures).mean, 0, 3)  # 9 rows
    noisy = denoiser.add_noise(asked["latents"], asked["noise"], asked["timesteps"])
    for texts in (["a cat"], ["a cat", "a dog", "a car"] * 3):
        prompt = denoiser.prompt(texts)
        with torch.no_grad():
            whole = denoiser.predict(noisy, asked["timesteps"], prompt)
        for rows in (2, 9, 32):
            found = predict_in_parts(denoiser, noisy, asked["timesteps"], prompt, rows)
            assert torch.allclose(found, whole, atol=1e-5) and not found.requires_grad
