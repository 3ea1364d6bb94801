"""`Denoiser` against the pipelines it wraps: the same numbers, whatever the family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.flow import pack, unpack
from studylib.denoisers.prompts import Prompt
from tests.denoisers.tiny_transformers import TRANSFORMERS
from tests.tiny_pipelines import scheduler, sd, sdxl, tokenizer, vae

PIPELINES = {"sd": sd, "sdxl": sdxl, **TRANSFORMERS}
SHORT = {"sd3": {"max_sequence_length": 16}, "flux": {"max_sequence_length": 16}, "pixart": {"max_sequence_length": 16}}


@pytest.fixture(scope="module", params=PIPELINES)
def named(request):
    return request.param, PIPELINES[request.param]()


def latents(denoiser: Denoiser, count: int = 2, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, *denoiser.shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int = 2, size: tuple[int, int] = (16, 16)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]


@torch.no_grad()
def sampled(denoiser: Denoiser, start: torch.Tensor, texts: list[str], scale: float, options=None, **conditions):
    """What a method's own loop draws in three steps, with nothing but the denoiser and its schedule."""
    schedule, prompt = denoiser.schedule(3), denoiser.prompt(texts, **(options or {}))
    negative = denoiser.unconditional(**(options or {}))
    x = start
    for t in schedule.timesteps:
        x = schedule.step(denoiser.predict_guided(x, t, prompt, scale, negative, **conditions), t, x).prev_sample
    return x


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("texts", [["cat"], ["cat", "dog"]])
def test_a_loop_over_the_denoiser_draws_what_the_pipeline_draws(named, texts, guidance):
    """Three steps, latents compared: timesteps, prompts, guidance, learned sigma and packing are the pipeline's."""
    name, pipe = named
    denoiser, options = Denoiser(pipe), SHORT.get(name, {})
    start = latents(denoiser, len(texts))
    sampling = {"num_inference_steps": 3, "guidance_scale": guidance, "output_type": "latent", **options}
    if name == "dit":  # gives pixels only and takes no latents, but draws them from a generator
        drawn = pipe(
            pipe.get_label_ids(texts), generator=torch.Generator().manual_seed(5), num_inference_steps=3,
            guidance_scale=guidance, output_type="pt",
        ).images
        mine = denoiser.decode_pixels(sampled(denoiser, start, texts, guidance))
        torch.testing.assert_close((mine / 2 + 0.5).clamp(0, 1), drawn, rtol=0, atol=1e-5)
        return
    if name == "flux":  # its guidance scale is a condition; the guidance of two passes has another name
        told = {"guidance": guidance}
        sampling |= {"height": 16, "width": 16}
        drawn = unpack(pipe(texts, latents=pack(start), **sampling).images, 8, 8)
        torch.testing.assert_close(sampled(denoiser, start, texts, 1.0, options=options, **told), drawn)
        sampling |= {"true_cfg_scale": guidance, "negative_prompt": [""] * len(texts)}
        drawn = unpack(pipe(texts, latents=pack(start), **sampling).images, 8, 8)
        mine = sampled(denoiser, start, texts, guidance, options=options, **told)
        torch.testing.assert_close(mine, drawn, rtol=1e-5, atol=2e-5)
        return
    if name == "pixart":
        sampling |= {"use_resolution_binning": False, "clean_caption": False}
    drawn = pipe(texts, latents=start.clone(), **sampling).images
    mine = sampled(denoiser, start, texts, guidance, options=options)
    torch.testing.assert_close(mine, drawn, rtol=1e-5, atol=1e-5)


def test_pictures_are_drawn_by_the_pipeline_at_its_own_size(named):
    """One call for all families; DiT is given the names of classes."""
    name, pipe = named
    denoiser, options = Denoiser(pipe), SHORT.get(name, {})
    one, again = (
        denoiser.draw(["cat", "dog"], generator=torch.Generator().manual_seed(0), num_inference_steps=2, **options)
        for _ in range(2)
    )
    assert [image.size for image in one] == [(16, 16)] * 2 == [denoiser.pixels[::-1]] * 2
    assert one[0].tobytes() == again[0].tobytes() != one[1].tobytes()


def test_gradients_flow_to_latents_and_to_every_weight(named):
    """Training, drags and guidance by gradients need both."""
    name, pipe = named
    denoiser = Denoiser(pipe)
    x = latents(denoiser).requires_grad_()
    with torch.no_grad():
        prompt = denoiser.prompt(["cat", "dog"], **SHORT.get(name, {}))
    denoiser.predict_all(x, torch.tensor([300, 700]), prompt).square().sum().backward()
    assert x.grad.flatten(1).abs().amax(dim=1).min() > 0
    without = [name for name, weight in denoiser.network.named_parameters() if weight.grad is None]
    denoiser.network.zero_grad(set_to_none=True)
    assert not without


def test_gradients_flow_to_the_text_encoder(named):
    """Textual Inversion and DreamBooth with the text encoder train through the prompt."""
    name, pipe = named
    if name == "dit":
        pytest.skip("DiT has no text encoder")
    Denoiser(pipe).prompt(["cat"], **SHORT.get(name, {})).embeds.square().sum().backward()
    encoder = pipe.text_encoder_2 if name == "flux" else pipe.text_encoder
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in encoder.parameters())
    encoder.zero_grad(set_to_none=True)


@torch.no_grad()
def test_each_row_gets_what_it_gets_alone(named):
    """Batches of any size, each row with its own timestep and prompt; within 1e-5, since sums are taken in another
    order."""
    name, pipe = named
    denoiser = Denoiser(pipe)
    x, timesteps = latents(denoiser, 5), torch.tensor([900, 20, 500, 500, 1])
    prompt = denoiser.prompt(["cat", "dog", "boat", "cat", "home"], **SHORT.get(name, {}))
    together = denoiser.predict(x, timesteps, prompt)
    alone = torch.cat([denoiser.predict(x[i : i + 1], timesteps[i], prompt[i]) for i in range(5)])
    assert together.shape == x.shape and not torch.allclose(together[2], together[3])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    shared = denoiser.predict(x, 500, prompt[0])  # one prompt and one timestep for all
    torch.testing.assert_close(shared, denoiser.predict(x, torch.full((5,), 500), prompt[0].expand(5)))


def test_noise_and_target_are_the_training_scripts(named):
    """Compared with what diffusers' scripts call: DDPMScheduler, or the sigma looked up at the timestep's index."""
    _, pipe = named
    denoiser = Denoiser(pipe)
    clean, noise = latents(denoiser, 3), latents(denoiser, 3, seed=6)
    if denoiser.kind == "flow":
        script = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
        timesteps = script.timesteps[torch.tensor([10, 500, 990])]
        expected = script.scale_noise(clean, timesteps, noise)
        torch.testing.assert_close(denoiser.add_noise(clean, noise, timesteps), expected)
        assert torch.equal(denoiser.target(clean, noise, timesteps), noise - clean)
        return
    timesteps = torch.tensor([10, 500, 990])
    original = pipe.scheduler
    for kind in ("epsilon", "v_prediction"):
        pipe.scheduler = scheduler(prediction_type=kind)
        script = DDPMScheduler.from_config(pipe.scheduler.config)
        target = noise if kind == "epsilon" else script.get_velocity(clean, noise, timesteps)
        assert torch.equal(denoiser.add_noise(clean, noise, timesteps), script.add_noise(clean, noise, timesteps))
        assert torch.equal(denoiser.target(clean, noise, timesteps), target)
    pipe.scheduler = original


def test_a_prediction_is_split_into_what_it_was_made_of(named):
    """`split` undoes `add_noise` for all that can be predicted."""
    name, pipe = named
    denoiser, original = Denoiser(pipe), pipe.scheduler
    clean, noise, timesteps = latents(denoiser, 3), latents(denoiser, 3, seed=6), torch.tensor([10, 500, 990])
    others = [] if denoiser.kind == "flow" else [scheduler(prediction_type="v_prediction")]
    for other in [original, *others]:
        pipe.scheduler = other
        noised, target = denoiser.add_noise(clean, noise, timesteps), denoiser.target(clean, noise, timesteps)
        torch.testing.assert_close(denoiser.split(target, noised, timesteps), (clean, noise), rtol=1e-4, atol=1e-4)
    pipe.scheduler = original


def test_noise_does_not_depend_on_where_a_sampler_stands():
    """DPM-Solver's and flow matching's own add_noise look the timestep up among those of the last sampling."""
    for pipe in (sd(), TRANSFORMERS["flux"]()):
        denoiser = Denoiser(pipe)
        if denoiser.kind == "epsilon":
            pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        clean, noise = latents(denoiser, 1), latents(denoiser, 1, seed=6)
        before = denoiser.add_noise(clean, noise, 777)
        pipe.scheduler = denoiser.schedule(3)
        assert torch.equal(denoiser.add_noise(clean, noise, 777), before)


def test_a_scheduler_that_predicts_pictures_is_refused():
    """Training against the wrong target would run, and teach nonsense."""
    pipe = sd()
    pipe.scheduler = scheduler(prediction_type="sample")
    with pytest.raises(ValueError, match="'sample'"):
        Denoiser(pipe).target(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), 5)


def test_encoding_is_the_autoencoders_in_the_denoisers_scale(named):
    """Scale and shift as the pipelines apply them before they decode."""
    _, pipe = named
    denoiser = Denoiser(pipe)
    cached = denoiser.encode(pictures(3), batch_size=2)
    with torch.no_grad():
        pixels = torch.stack([_pixels(image) for image in pictures(3)])
        posterior = pipe.vae.encode(pixels).latent_dist
    shift = pipe.vae.config.shift_factor or 0.0
    assert cached.mean.shape == (3, *denoiser.shape)
    torch.testing.assert_close(cached.mean, (posterior.mean - shift) * pipe.vae.config.scaling_factor)
    torch.testing.assert_close(cached.std, posterior.std * pipe.vae.config.scaling_factor)
    with torch.no_grad():
        direct = pipe.vae.decode(posterior.mean).sample
    torch.testing.assert_close(denoiser.decode_pixels(cached.mean), direct, rtol=1e-4, atol=1e-4)
    assert [image.size for image in denoiser.decode(cached.mean)] == [(16, 16)] * 3


def _pixels(image: Image.Image) -> torch.Tensor:
    """(3, H, W) in [-1, 1], written out."""
    flat = torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(image.height, image.width, 3)
    return flat.permute(2, 0, 1) / 127.5 - 1


def test_pictures_of_another_size_are_scaled_or_keep_their_own(named):
    """Training takes the size that is drawn; inversion may keep the picture's, cut to what can be divided."""
    name, pipe = named
    denoiser = Denoiser(pipe)
    assert denoiser.encode(pictures(1, (21, 33))).mean.shape == (1, 4, 8, 8)
    kept = denoiser.encode(pictures(1, (21, 33)), own_size=True).mean.shape
    assert kept == (1, 4, 16, 10)
    with torch.no_grad():
        if name not in ("dit", "sd3"):  # whose places are of a fixed size
            denoiser.predict(torch.zeros(kept), 500, denoiser.prompt(["cat"], **SHORT.get(name, {})))


@pytest.mark.parametrize("changes", [
    {"shift_factor": 0.3}, {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]},
])  # fmt: skip
def test_autoencoders_with_a_shift_or_statistics_are_read_as_they_were_written(changes):
    """A wrong shift is a tint on every picture."""
    pipe = sd()
    pipe.vae = vae(**changes)
    denoiser = Denoiser(pipe)
    found = denoiser.encode(pictures(1)).mean
    raw = Denoiser(sd()).encode(pictures(1)).mean / 0.18215
    if "shift_factor" in changes:
        expected = (raw - 0.3) * 0.18215
    else:
        mean, std = (torch.tensor(changes[key]).view(1, 4, 1, 1) for key in ("latents_mean", "latents_std"))
        expected = (raw - mean) * 0.18215 / std
    torch.testing.assert_close(found, expected)


def test_decoding_has_gradients_and_half_precision_is_restored():
    """A loss on pixels needs gradients; SDXL's autoencoder overflows in float16."""
    pipe = sd()
    denoiser = Denoiser(pipe)
    x = latents(denoiser, 1).requires_grad_()
    denoiser.decode_pixels(x).square().sum().backward()
    assert x.grad.abs().max() > 0
    expected = denoiser.encode(pictures(1)).mean
    pipe.vae.to(torch.float16)
    torch.testing.assert_close(denoiser.encode(pictures(1)).mean, expected, rtol=0.02, atol=0.02)
    assert pipe.vae.config.force_upcast and pipe.vae.dtype == torch.float16


def test_a_half_precision_network_gives_the_dtype_of_its_latents():
    """Inversions keep float32 latents beside a float16 or bfloat16 network."""
    pipe = TRANSFORMERS["dit"]()
    denoiser = Denoiser(pipe)
    x = latents(denoiser)
    full = denoiser.predict(x, 500, ["cat"])
    pipe.transformer.to(torch.bfloat16)
    half = denoiser.predict(x, 500, ["cat"])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


def test_prompts_are_rows():
    """Chosen, repeated, joined and shared, as a batch needs them."""
    prompt = Prompt(torch.arange(6.0).reshape(2, 3, 1), mask=torch.ones(2, 3))
    assert len(prompt) == 2 and len(prompt[1]) == 1 and prompt[[1, 0]].embeds[0, 0, 0] == 3
    assert prompt.repeat(2).embeds[:, 0, 0].tolist() == [0, 0, 3, 3]
    assert len(Prompt.join([prompt, prompt[0]])) == 3 and prompt[0].expand(4).mask.shape == (4, 3)
    with pytest.raises(ValueError, match="2 prompts were given for 3 latents"):
        prompt.expand(3)
    with pytest.raises(ValueError, match="as many rows"):
        Prompt(torch.zeros(2, 3, 1), mask=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="at least one field"):
        Prompt()


def test_a_class_that_dit_does_not_know_is_named():
    """With the nearest one that it knows."""
    denoiser = Denoiser(TRANSFORMERS["dit"]())
    assert denoiser.prompt(["home", ""]).labels.tolist() == [3, 1000]
    with pytest.raises(ValueError, match="no class 'hause'.*such as 'house'"):
        denoiser.prompt(["hause"])


def test_another_kind_of_network_is_refused():
    """With the list of those that are known."""
    class Other:
        transformer = torch.nn.Linear(1, 1)

    with pytest.raises(TypeError, match="UNet2DConditionModel.*Linear was given"):
        Denoiser(Other())
    assert tokenizer().model_max_length == 16  # what the tiny texts are padded to
