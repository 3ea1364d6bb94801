"""DDIM inversion against the library's own inverse scheduler, and there-and-back round trips."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from studylib.denoisers.inversion import ddim_inversion, decode_latents, encode_image, invert_latents
from tests import tiny_pipelines as tiny

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
    latents = encode_image(pipe, picture())
    ours = invert_latents(pipe, latents, "a ramp", num_inference_steps=5, guidance_scale=2.0)
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
        trajectory = invert_latents(pipe, latents, "a ramp", num_inference_steps=steps)
        assert torch.equal(trajectory[-1:], latents)
        back = pipe(
            "a ramp", latents=trajectory[:1], num_inference_steps=steps, guidance_scale=1.0,
            output_type="latent",
        ).images
        errors[steps] = (back - latents).norm() / latents.norm()
        assert (trajectory[:1] - latents).norm() / latents.norm() > 0.5  # else the walk went nowhere
    assert errors[40] < 0.01
    assert errors[40] < 0.5 * errors[10]  # the error is that of finite steps, nothing else


def test_encode_and_decode_undo_each_others_scaling():
    """A VAE with a shift and one with per-channel statistics must both be read as they were written."""
    mean, std = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    columns = (mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1))
    cases = [
        ({}, 0.0, 1.0),
        ({"shift_factor": 0.3}, 0.3, 1.0),
        ({"latents_mean": mean.tolist(), "latents_std": std.tolist()}, *columns),
    ]
    for changes, shift, divisor in cases:
        pipe = tiny.sd()
        pipe.vae = tiny.vae(**changes)
        latents = encode_image(pipe, picture())
        with torch.no_grad():
            raw = pipe.vae.encode(pipe.image_processor.preprocess(picture())).latent_dist.mean
            direct = pipe.image_processor.postprocess(pipe.vae.decode(raw).sample, output_type="pil")
        torch.testing.assert_close(latents, (raw - shift) * pipe.vae.config.scaling_factor / divisor)
        assert decode_latents(pipe, latents)[0].tobytes() == direct[0].tobytes()


def test_a_vae_that_overflows_in_half_precision_is_upcast_and_restored():
    """SDXL's VAE gives NaN in float16: it must work in float32 and come back as it was."""
    pipe = tiny.sd()
    expected = encode_image(pipe, picture())
    pipe.vae.to(torch.float16)
    latents = encode_image(pipe, picture())
    assert pipe.vae.config.force_upcast and pipe.vae.dtype == torch.float16
    torch.testing.assert_close(latents, expected, rtol=0.02, atol=0.02)
    with pytest.raises(RuntimeError):
        decode_latents(pipe, torch.zeros(1, 3, 8, 8))
    assert pipe.vae.dtype == torch.float16


def test_the_pipelines_own_scheduler_is_left_alone():
    """A notebook may invert between two samplings: another sampler's numbers are read, its state stays."""
    pipe = tiny.sd()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(7)
    trajectory = ddim_inversion(pipe, picture(), "a ramp", num_inference_steps=3)
    assert len(pipe.scheduler.timesteps) == 7
    pipe.scheduler = tiny.scheduler()
    torch.testing.assert_close(trajectory, ddim_inversion(pipe, picture(), "a ramp", num_inference_steps=3))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler"),
        (tiny.scheduler(clip_sample=True), "clip_sample=False"),
        (tiny.scheduler(prediction_type="sample"), "epsilon or v_prediction"),
    ],
)
def test_schedules_that_cannot_be_inverted_are_refused(scheduler, message):
    """A silent wrong trajectory would look like a weak method."""
    pipe = tiny.sd()
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match=message):
        ddim_inversion(pipe, picture(), "a ramp", num_inference_steps=3)
