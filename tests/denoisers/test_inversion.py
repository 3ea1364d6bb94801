"""DDIM inversion against the library's own inverse scheduler, and there-and-back round trips."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler, EulerDiscreteScheduler
from PIL import Image

from studylib.denoisers.attention import attention_hook
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.flow import pack, unpack
from studylib.denoisers.inversion import ddim_inversion, invert_latents, sample_latents
from tests import tiny_pipelines as tiny
from tests.denoisers.tiny_transformers import TRANSFORMERS

PIPELINES = {"sd": tiny.sd, "sdxl": tiny.sdxl}


def picture(size: int = 16) -> Image.Image:
    """A colour ramp: smooth, and different in every corner."""
    image = Image.linear_gradient("L").resize((size, size))
    return Image.merge("RGB", (image, image.rotate(90), image.rotate(180)))


@torch.no_grad()
def inverse_scheduler_walk(pipe, latents, prompt, steps, guidance):
    """The same walk with the library's scheduler and the pipeline's own conditioning."""
    embeds, negative, *pooled = pipe.encode_prompt(
        prompt=prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True,
    )
    added = None
    if pooled:
        ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)
        added = {"text_embeds": torch.cat([pooled[1], pooled[0]]), "time_ids": ids}
    scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    walk = [latents]
    for t in scheduler.timesteps:
        both = pipe.unet(
            torch.cat([walk[-1]] * 2), t,
            encoder_hidden_states=torch.cat([negative, embeds]), added_cond_kwargs=added,
        ).sample
        predicted = both[:1] + guidance * (both[1:] - both[:1])
        walk.append(scheduler.step(predicted, int(t), walk[-1]).prev_sample)
    return torch.cat(walk[::-1])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", PIPELINES)
def test_equals_the_librarys_inverse_scheduler(name, prediction_type):
    """Our own arithmetic and conditioning must be DDIM's, also for SDXL's time ids and for v-prediction."""
    pipe = PIPELINES[name]()
    pipe.scheduler = tiny.scheduler(prediction_type=prediction_type)
    latents = Denoiser(pipe).encode([picture()], own_size=True).mean
    ours = invert_latents(Denoiser(pipe), latents, "a ramp", num_inference_steps=5, guidance_scale=2.0)
    theirs = inverse_scheduler_walk(pipe, latents, "a ramp", 5, 2.0)
    assert ours.shape == (6, 4, 8, 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PIPELINES)
def test_sampling_at_guidance_1_walks_the_trajectory_back(name):
    """What inversion is for: from the noisiest latents the sampler must return to the picture's latents."""
    pipe = PIPELINES[name]()
    with torch.no_grad():
        for weight in pipe.unet.conv_out.parameters():
            weight.mul_(0.05)  # a denoiser that changes slowly, as a trained one does between close steps
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    errors = {}
    for steps in (10, 40):
        trajectory = invert_latents(Denoiser(pipe), latents, "a ramp", num_inference_steps=steps)
        assert torch.equal(trajectory[-1:], latents)
        back = pipe(
            "a ramp", latents=trajectory[:1], num_inference_steps=steps, guidance_scale=1.0,
            output_type="latent",
        ).images
        errors[steps] = (back - latents).norm() / latents.norm()
        assert (trajectory[:1] - latents).norm() / latents.norm() > 0.5  # else the walk went nowhere
    assert errors[40] < 0.01
    assert errors[40] < 0.5 * errors[10]  # the error is that of finite steps, nothing else


def test_the_pipelines_own_scheduler_is_left_alone():
    """A notebook may invert between two samplings: another sampler's numbers are read, its state stays."""
    pipe = tiny.sd()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(7)
    trajectory = ddim_inversion(Denoiser(pipe), picture(), "a ramp", num_inference_steps=3)
    assert len(pipe.scheduler.timesteps) == 7
    pipe.scheduler = tiny.scheduler()
    torch.testing.assert_close(trajectory, ddim_inversion(Denoiser(pipe), picture(), "a ramp", num_inference_steps=3))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (tiny.scheduler(clip_sample=True), "clip_sample=False"),
        (tiny.scheduler(prediction_type="sample"), "epsilon, v_prediction or a flow"),
    ],
)
def test_schedules_that_cannot_be_inverted_are_refused(scheduler, message):
    """A silent wrong trajectory would look like a weak method."""
    pipe = tiny.sd()
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match=message):
        ddim_inversion(Denoiser(pipe), picture(), "a ramp", num_inference_steps=3)


def calm(network) -> None:
    """Make a denoiser whose prediction changes slowly, as a trained one's does between close steps."""
    last = getattr(network, "conv_out", None) or getattr(network, "proj_out_2", None) or network.proj_out
    with torch.no_grad():
        for weight in last.parameters():
            weight.mul_(0.05)


@pytest.mark.parametrize("name", [*PIPELINES, *TRANSFORMERS])
def test_noise_found_by_inversion_leads_back(name):
    """The same functions for noise schedules and flows, learned sigma, classes and packed latents."""
    pipe = {**PIPELINES, **TRANSFORMERS}[name]()
    denoiser = Denoiser(pipe)
    calm(denoiser.network)
    options = {} if name in ("sd", "sdxl", "dit") else {"max_sequence_length": 16}
    prompt = denoiser.prompt(["cat"], **options)
    latents = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    errors = {}
    for steps in (5, 20):
        trajectory = invert_latents(denoiser, latents, prompt, num_inference_steps=steps)
        back = sample_latents(denoiser, trajectory[:1], prompt, num_inference_steps=steps)
        assert trajectory.shape == (steps + 1, *denoiser.shape) and torch.equal(trajectory[-1:], latents)
        assert (trajectory[:1] - latents).norm() / latents.norm() > 0.01  # else the walk went nowhere
        errors[steps] = float((back - latents).norm() / latents.norm())
    assert errors[20] < 0.03 and errors[20] < errors[5]


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_our_sampler_is_the_pipelines(name):
    """DDIM and Euler without random numbers, guidance included; FLUX's own latents are packed."""
    pipe = {**PIPELINES, **TRANSFORMERS}[name]()
    denoiser = Denoiser(pipe)
    noise = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    sampling = {"num_inference_steps": 4, "output_type": "latent"}
    if name == "flux":
        told = {"max_sequence_length": 16}
        drawn = pipe(["cat"], latents=pack(noise), height=16, width=16, guidance_scale=3.5, **sampling, **told).images
        drawn = unpack(drawn, 8, 8)
        mine = sample_latents(denoiser, noise, denoiser.prompt(["cat"], **told), num_inference_steps=4, guidance=3.5)
    else:
        drawn = pipe(["cat"], latents=noise.clone(), guidance_scale=3.0, **sampling).images
        mine = sample_latents(denoiser, noise, "cat", num_inference_steps=4, guidance_scale=3.0)
    torch.testing.assert_close(mine, drawn, rtol=1e-5, atol=1e-5)


def test_steps_of_inversion_and_of_the_sampling_after_it():
    """In one block: both schedules count from zero, though they meet at one timestep; so they do in the other order."""
    pipe = tiny.sd()
    denoiser, seen = Denoiser(pipe), []
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    site = "mid_block.attentions.0.transformer_blocks.0.attn1"
    with attention_hook(pipe.unet, lambda call: seen.append((call.step, call.timestep)), where=site):
        noisy = invert_latents(denoiser, latents, "a ramp", num_inference_steps=4)[:1]
        pipe("a ramp", latents=noisy, num_inference_steps=4, output_type="latent")
        invert_latents(denoiser, latents, "a ramp", num_inference_steps=4)
    up = [(0, 1.0), (1, 251.0), (2, 501.0), (3, 751.0)]
    down = [(step, up[3 - step][1]) for step in range(4)]
    assert seen == [*up, *down, *up]
