"""Conditions by name: each does what the library's own pipeline or network does with it, and others are refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    ControlNetModel,
    FluxControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    T2IAdapter,
)
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterTimeImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.family import CONDITIONS
from studylib.denoisers.flow import pack, token_places, unpack
from tests.denoisers.tiny_transformers import TRANSFORMERS, flux, pixart, sd3
from tests.tiny_pipelines import WIDTH, sd, sdxl

SIZED = {"use_additional_conditions": True, "attention_head_dim": 12, "cross_attention_dim": 24}
SAMPLING = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}


def noise(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sampled(denoiser: Denoiser, start: torch.Tensor, texts: list[str], conditions_at=lambda x, t: {}) -> torch.Tensor:
    """Three guided steps; `conditions_at` makes the conditions of a step, as a second network does."""
    schedule, prompt, x = denoiser.schedule(3), denoiser.prompt(texts), start
    for t in schedule.timesteps:
        x = schedule.step(denoiser.predict_guided(x, t, prompt, 4.0, **conditions_at(x, t)), t, x).prev_sample
    return x


def test_residuals_of_a_controlnet_do_what_its_pipeline_does():
    """Skips and middle, computed from text and latents of both halves of guidance."""
    pipe = sd()
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in control.parameters():
            weight.add_(0.02 * torch.randn_like(weight))  # its last layers start at zero
    picture = torch.rand(1, 3, 16, 16)
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    whole = StableDiffusionControlNetPipeline(**parts, controlnet=control, requires_safety_checker=False)
    whole.set_progress_bar_config(disable=True)
    start = noise(1, 4, 8, 8)
    drawn = whole(["cat"], picture, latents=start, controlnet_conditioning_scale=0.7, **SAMPLING).images
    denoiser = Denoiser(pipe)
    texts = torch.cat([denoiser.unconditional().embeds, denoiser.prompt(["cat"]).embeds])

    def residuals(x: torch.Tensor, t: torch.Tensor) -> dict:
        skips, middle = control(torch.cat([x] * 2), t, texts, torch.cat([picture] * 2), 0.7, return_dict=False)
        return {
            "skip_residuals": [skip[1:] for skip in skips], "middle_residual": middle[1:],
            "negative_conditions": {"skip_residuals": [skip[:1] for skip in skips], "middle_residual": middle[:1]},
        }

    torch.testing.assert_close(sampled(denoiser, start, ["cat"], residuals), drawn, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(sampled(denoiser, start, ["cat"]), drawn, atol=1e-3)


def test_features_of_a_t2i_adapter_do_what_its_pipeline_does():
    """Inside the down blocks, the same for both halves; the tensors that were given stay as they are."""
    pipe = sd()
    torch.manual_seed(2)
    adapter = T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter").eval()
    picture = torch.rand(1, 3, 16, 16)
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    whole = StableDiffusionAdapterPipeline(**parts, adapter=adapter, requires_safety_checker=False)
    whole.set_progress_bar_config(disable=True)
    start = noise(1, 4, 8, 8)
    drawn = whole(["cat"], image=picture, latents=start, **SAMPLING).images
    with torch.no_grad():
        features = adapter(picture)
    before = [feature.clone() for feature in features]
    mine = sampled(Denoiser(pipe), start, ["cat"], lambda x, t: {"intrablock_residuals": features})
    torch.testing.assert_close(mine, drawn, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(features, before, strict=True))
    assert not torch.allclose(sampled(Denoiser(pipe), start, ["cat"]), drawn, atol=1e-3)


def with_image_prompts(pipe) -> None:
    """An IP-Adapter of random weights in the layout of the published files: 4 tokens for an embedding of 8."""
    rng = torch.Generator().manual_seed(4)
    shapes = {"proj.weight": (4 * WIDTH, 8), "proj.bias": (4 * WIDTH,), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    order = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    widths = [pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.in_features for name in order]
    attention = {
        f"{2 * i + 1}.to_{kind}_ip.weight": torch.randn(width, WIDTH, generator=rng)
        for i, width in enumerate(widths) for kind in "kv"
    }
    image_proj = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    pipe.unet._load_ip_adapter_weights([{"image_proj": image_proj, "ip_adapter": attention}], low_cpu_mem_usage=False)


def test_image_prompts_do_what_the_pipeline_does():
    """An IP-Adapter's embeddings, zeros for the unconditional half as the pipeline takes them; and its masks."""
    pipe = sd()
    denoiser = Denoiser(pipe)
    with pytest.raises(TypeError, match="as it is loaded, cannot take 'image_embeds'"):
        denoiser.predict(noise(1, 4, 8, 8), 500, ["cat"], image_embeds=[noise(1, 1, 8)])
    with_image_prompts(pipe)
    start, embeds = noise(1, 4, 8, 8), noise(1, 1, 8, seed=9)
    both = torch.cat([torch.zeros_like(embeds), embeds])  # (2, images, width), unconditional first
    drawn = pipe(["cat"], latents=start, ip_adapter_image_embeds=[both], **SAMPLING).images
    told = {"image_embeds": [embeds], "negative_conditions": {"image_embeds": [torch.zeros_like(embeds)]}}
    torch.testing.assert_close(sampled(denoiser, start, ["cat"], lambda x, t: told), drawn, rtol=1e-5, atol=1e-5)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    options = {"cross_attention_kwargs": {"ip_adapter_masks": [mask]}}
    drawn_inside = pipe(["cat"], latents=start, ip_adapter_image_embeds=[both], **options, **SAMPLING).images
    told["image_masks"] = [mask]
    mine = sampled(denoiser, start, ["cat"], lambda x, t: told)
    torch.testing.assert_close(mine, drawn_inside, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mine, drawn, atol=1e-3)


def test_image_prompts_of_joint_attention():
    """FLUX's against its pipeline, SD3's against its network; the embeddings are given anew at every step."""
    pipe = flux()
    network = pipe.transformer
    torch.manual_seed(6)
    projection = ImageProjection(image_embed_dim=8, cross_attention_dim=WIDTH, num_image_text_embeds=4)
    network.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    processor = FluxIPAdapterAttnProcessor(16, WIDTH, num_tokens=(4,), scale=[1.0])
    network.get_submodule("transformer_blocks.0.attn").set_processor(processor)
    start, embeds, denoiser = noise(1, 4, 8, 8), noise(1, 1, 8, seed=9), Denoiser(pipe)
    drawn = pipe(
        ["cat"], latents=pack(start), ip_adapter_image_embeds=[embeds], negative_ip_adapter_image_embeds=[embeds],
        height=16, width=16, num_inference_steps=3, guidance_scale=3.5, output_type="latent", max_sequence_length=16,
    ).images
    prompt, schedule, x = denoiser.prompt(["cat"], max_sequence_length=16), denoiser.schedule(3), start
    with torch.no_grad():
        for t in schedule.timesteps:
            x = schedule.step(denoiser.predict(x, t, prompt, image_embeds=[embeds]), t, x).prev_sample
    torch.testing.assert_close(x, unpack(drawn, 8, 8), rtol=1e-5, atol=1e-5)
    pipe = sd3()
    network = pipe.transformer
    network.image_proj = IPAdapterTimeImageProjection(
        embed_dim=8, output_dim=16, hidden_dim=16, depth=1, dim_head=8, heads=2, num_queries=4, timestep_in_dim=8,
    )
    processor = SD3IPAdapterJointAttnProcessor2_0(16, 16, head_dim=8, timesteps_emb_dim=16)
    network.get_submodule("transformer_blocks.0.attn").set_processor(processor)
    denoiser, embeds = Denoiser(pipe), noise(1, 5, 8, seed=9)
    prompt = denoiser.prompt(["cat"], max_sequence_length=16)
    with torch.no_grad():
        mine = denoiser.predict(start, 500, prompt, image_embeds=embeds)
        told = {"ip_adapter_image_embeds": embeds}
        direct = network(
            start, prompt.embeds, prompt.pooled, torch.tensor([500]), joint_attention_kwargs=told
        ).sample
        assert torch.equal(mine, direct) and not torch.allclose(mine, denoiser.predict(start, 500, prompt), atol=1e-4)


def test_sizes_of_sdxl_are_the_pipelines():
    """Original size, crop and target, in this order."""
    pipe, start = sdxl(), noise(1, 4, 8, 8)
    how = {"original_size": (64, 32), "crops_coords_top_left": (3, 5), "target_size": (20, 24)}
    drawn = pipe(["cat"], latents=start, **how, **SAMPLING).images
    sizes = torch.tensor([64, 32, 3, 5, 20, 24])
    mine = sampled(Denoiser(pipe), start, ["cat"], lambda x, t: {"sizes": sizes})
    torch.testing.assert_close(mine, drawn, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(sampled(Denoiser(pipe), start, ["cat"]), drawn, atol=1e-3)


@torch.no_grad()
def test_sizes_and_masks_of_pixart():
    """By default the latents' own size and the prompt's own mask; others change the prediction."""
    pipe = pixart(**SIZED)
    denoiser, x = Denoiser(pipe), noise(2, 4, 8, 8)
    prompt = denoiser.prompt(["cat", "a long dog"], max_sequence_length=16)
    own = {"resolution": torch.tensor([[16.0, 16]] * 2), "aspect_ratio": torch.ones(2, 1)}
    direct = pipe.transformer(
        x, prompt.embeds, torch.tensor([500, 500]), encoder_attention_mask=prompt.mask, added_cond_kwargs=own,
    ).sample
    assert torch.equal(denoiser.predict_all(x, 500, prompt), direct)
    assert torch.equal(denoiser.predict(x, 500, prompt), direct[:, :4])
    for changed in ({"sizes": torch.tensor([32, 16])}, {"text_mask": torch.ones(2, 16)}):
        assert not torch.allclose(denoiser.predict(x, 500, prompt, **changed), direct[:, :4], atol=1e-5)


@torch.no_grad()
def test_text_masks_and_classes_and_channels_of_a_unet():
    """Each reaches the network under its own name there; padding under a mask has no effect."""
    pipe = sd(num_class_embeds=3)
    denoiser, x = Denoiser(pipe), noise(2, 4, 8, 8)
    embeds, labels, mask = denoiser.prompt(["cat", "dog"]).embeds, torch.tensor([2, 0]), torch.ones(2, 16)
    mask[:, 5:] = 0
    mine = denoiser.predict(x, 500, embeds, class_labels=labels, text_mask=mask)
    direct = pipe.unet(x, 500, embeds, class_labels=labels, encoder_attention_mask=mask).sample
    assert torch.equal(mine, direct)
    other = embeds.clone()
    other[:, 5:] = 7
    assert torch.equal(denoiser.predict(x, 500, other, class_labels=labels, text_mask=mask), direct)
    inpainting = sd(in_channels=9)
    extra = noise(2, 5, 8, 8, seed=6)
    assert Denoiser(inpainting).shape == (4, 8, 8)
    mine = Denoiser(inpainting).predict(x, 500, embeds, extra_channels=extra)
    assert torch.equal(mine, inpainting.unet(torch.cat([x, extra], dim=1), 500, embeds).sample)


@torch.no_grad()
def test_residuals_and_further_tokens_of_transformers():
    """SD3's and FLUX's ControlNet residuals, and a second picture's tokens behind FLUX's own."""
    pipe, x = sd3(), noise(2, 4, 8, 8)
    prompt, residual = Denoiser(pipe).prompt(["cat", "dog"], max_sequence_length=16), noise(2, 16, 16, seed=6)
    mine = Denoiser(pipe).predict(x, 500, prompt, block_residuals=[residual])
    direct = pipe.transformer(
        x, prompt.embeds, prompt.pooled, torch.tensor([500, 500]), block_controlnet_hidden_states=[residual],
    ).sample
    assert torch.equal(mine, direct)
    pipe = flux()
    prompt = Denoiser(pipe).prompt(["cat", "dog"], max_sequence_length=16)
    control = FluxControlNetModel.from_transformer(
        pipe.transformer, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
    )
    with torch.no_grad():
        for weight in control.parameters():
            weight.add_(0.05)  # its last layers start at zero
    own = {
        "encoder_hidden_states": prompt.embeds, "pooled_projections": prompt.pooled,
        "timestep": torch.tensor([0.5, 0.5]), "guidance": torch.tensor([2.0, 2.0]), "txt_ids": torch.zeros(16, 3),
    }
    blocks, singles = control(
        pack(x), pack(noise(2, 4, 8, 8, seed=7)), img_ids=token_places(x), return_dict=False, **own
    )
    mine = Denoiser(pipe).predict(x, 500, prompt, guidance=2.0, block_residuals=blocks, single_block_residuals=singles)
    added = {"controlnet_block_samples": blocks, "controlnet_single_block_samples": singles}
    direct = pipe.transformer(pack(x), img_ids=token_places(x), **added, **own).sample
    assert torch.equal(mine, unpack(direct, 8, 8))
    more = noise(2, 4, 4, 8, seed=8)
    mine = Denoiser(pipe).predict(x, 500, prompt, guidance=2.0, appended_latents=more, appended_offset=(0, 4))
    places = torch.cat([token_places(x), token_places(more) + torch.tensor([0, 0, 4])])
    direct = pipe.transformer(torch.cat([pack(x), pack(more)], dim=1), img_ids=places, **own).sample
    assert torch.equal(mine, unpack(direct[:, :16], 8, 8))
    assert not torch.allclose(mine, Denoiser(pipe).predict(x, 500, prompt, guidance=2.0), atol=1e-4)


@torch.no_grad()
def test_classes_of_dit_may_be_given_as_numbers():
    """In place of a prompt, one for all or one each."""
    denoiser, x = Denoiser(TRANSFORMERS["dit"]()), noise(2, 4, 8, 8)
    by_name = denoiser.predict(x, 500, ["cat", "boat"])
    assert torch.equal(denoiser.predict(x, 500, None, class_labels=torch.tensor([0, 2])), by_name)
    assert torch.equal(denoiser.predict(x, 500, None, class_labels=[0]), denoiser.predict(x, 500, ["cat"]))
    with pytest.raises(ValueError, match="give a prompt, or class_labels"):
        denoiser.predict(x, 500, None)


def test_packing_is_the_pipelines():
    """Latents outside are (N, C, h, w), also where they are not square."""
    pipe, x = flux(), noise(2, 4, 6, 10)
    assert torch.equal(pack(x), pipe._pack_latents(x, 2, 4, 6, 10))
    assert torch.equal(unpack(pack(x), 6, 10), x)
    assert torch.equal(token_places(x), pipe._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32))
    with pytest.raises(ValueError, match="even height and width, not \\(5, 8\\)"):
        pack(noise(1, 4, 5, 8))


@pytest.mark.parametrize(("make", "wrong", "message"), [
    (sd, "sizes", "StableDiffusionPipeline with UNet2DConditionModel, as it is loaded, cannot take 'sizes'"),
    (sd, "class_labels", "cannot take 'class_labels'.*skip_residuals: "),
    (sd, "extra_channels", "cannot take 'extra_channels'"),
    (sd, "guidance", "cannot take 'guidance'"),
    (sd, "skip_residual", "no condition is called 'skip_residual'; did you mean 'skip_residuals'"),
    (TRANSFORMERS["dit"], "text_mask", "Given: text_mask.*DiTTransformer2DModel takes: class_labels: numbers"),
    (pixart, "sizes", "cannot take 'sizes'"),
    (sd3, "skip_residuals", "cannot take 'skip_residuals'.*takes: block_residuals"),
    (flux, "image_embeds", "cannot take 'image_embeds'"),
])  # fmt: skip
def test_a_condition_that_cannot_be_taken_is_refused(make, wrong, message):
    """diffusers ignores some of them in silence; the error says what was given and what is taken."""
    with pytest.raises(TypeError, match=message):
        Denoiser(make()).predict(noise(1, 4, 8, 8), 500, None, **{wrong: torch.zeros(1)})


def test_skips_without_a_middle_are_refused_and_none_counts_as_not_given():
    """diffusers would take skips alone for a T2I-Adapter's."""
    denoiser, x = Denoiser(sd()), noise(1, 4, 8, 8)
    with pytest.raises(ValueError, match="skip_residuals alone"):
        denoiser.predict(x, 500, ["cat"], skip_residuals=[torch.zeros(1)])
    with torch.no_grad():
        plain = denoiser.predict(x, 500, ["cat"])
        assert torch.equal(denoiser.predict(x, 500, ["cat"], skip_residuals=None, sizes=None), plain)


def test_every_condition_is_taken_by_some_network():
    """The table has no name that nothing can take."""
    pipe = sd(num_class_embeds=2, in_channels=9)
    with_image_prompts(pipe)
    others = [sdxl(), pixart(**SIZED), sd3(), flux()]
    assert set().union(*(Denoiser(one).family.takes() for one in [pipe, *others])) == set(CONDITIONS)
