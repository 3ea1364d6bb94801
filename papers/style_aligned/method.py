"""StyleAligned (Hertz et al., CVPR 2024, arXiv 2312.02133): pictures in the style of the first of their set.

A batch is a row of sets, each a reference and its targets. Classifier-free guidance makes two of every set,
the unconditional one first; without guidance there is one. Each shares with its own reference only.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn

from studylib.denoisers.attention import Hook, attention_hook
from studylib.denoisers.call import AttentionCall
from studylib.denoisers.hooks import NormCall, NormHook, norm_hook
from studylib.denoisers.prompts import listed
from studylib.denoisers.sites import Site, sites
from studylib.evidence.knobs import Config, knob


@dataclass(frozen=True)
class StyleAlignedConfig(Config):
    """The paper's knobs under its code's names and defaults; True switches a kind of sharing on.

    shared_score_scale multiplies the reference's keys, [0, 5]; shared_score_shift is added to the logits of
    its tokens, [-5, 5]; only_self_level is the fraction of self-attention layers left alone, [0, 1].
    full_attention_share overrides every attention knob but only_self_level. As in the official code, AdaIN
    does not wait for share_attention: with that alone off, queries and keys still take on its statistics.
    """

    share_group_norm: bool = True
    share_layer_norm: bool = True
    share_attention: bool = True
    adain_queries: bool = True
    adain_keys: bool = True
    adain_values: bool = False
    full_attention_share: bool = False
    shared_score_scale: float = knob(1.0, 0.0, 5.0)
    shared_score_shift: float = knob(0.0, -5.0, 5.0)
    only_self_level: float = knob(0.0, 0.0, 1.0)

    @classmethod
    def off(cls, **changes: Any) -> StyleAlignedConfig:
        """Everything off, which is the untouched pipeline; `changes` switches single knobs on."""
        return cls(**(dict.fromkeys(cls.switches(), False) | changes))

    @classmethod
    def switches(cls) -> list[str]:
        """List the knobs that are on or off."""
        return [field.name for field in dataclasses.fields(cls) if field.name not in cls.ranges()]

    @property
    def edits_attention(self) -> bool:
        adain = self.adain_queries or self.adain_keys or self.adain_values
        return self.share_attention or self.full_attention_share or adain


def adain(features: Tensor, set_size: int) -> Tensor:
    """Give every item the reference's mean and spread over tokens, per head and channel (equation 2).

    features: (batch, heads, tokens, head_dim). Unbiased variance and 1e-5 under the root, as officially.
    """
    correction = min(1, features.shape[-2] - 1)  # one token has no unbiased variance
    variance, mean = torch.var_mean(features, dim=-2, correction=correction, keepdim=True)  # (B, H, 1, d)
    std = (variance + 1e-5).sqrt()
    reference_mean, reference_std = expand_reference(mean, set_size), expand_reference(std, set_size)
    return (features - mean) * (reference_std / std) + reference_mean


def expand_reference(features: Tensor, set_size: int) -> Tensor:
    """Every item replaced by the reference of its set: (batch, ...) -> (batch, ...)."""
    sets = features.unflatten(0, (-1, set_size))  # (sets, set_size, ...)
    return sets[:, :1].expand_as(sets).flatten(0, 1)


def concat_reference(features: Tensor, set_size: int, *, dim: int, scale: float = 1.0) -> Tensor:
    """Each item's own features, then those of its reference, along `dim` (negative), which doubles.

    `scale` multiplies what the targets see of the reference; the reference sees itself unscaled.
    """
    sets = features.unflatten(0, (-1, set_size))  # (sets, set_size, ...)
    reference = sets[:, :1].expand_as(sets)
    if scale != 1:
        reference = torch.cat([reference[:, :1], scale * reference[:, 1:]], dim=1)
    return torch.cat([sets, reference], dim=dim).flatten(0, 1)


def share_style(config: StyleAlignedConfig, *, set_size: int) -> Hook:
    """The shared attention of equation 3, to be hooked onto self-attention."""

    def hook(call: AttentionCall) -> Tensor | None:
        check_batch(call.query.shape[0], set_size)
        if config.full_attention_share:
            return attend_to_all(call, set_size)
        if config.adain_queries:
            call.query = adain(call.query, set_size)
        if config.adain_keys:
            call.key = adain(call.key, set_size)
        if config.adain_values:
            call.value = adain(call.value, set_size)
        if not config.share_attention:
            return None
        own_tokens = call.key.shape[-2]
        call.mask = _mask_with_reference(call, set_size)
        scale = config.shared_score_scale
        call.key = concat_reference(call.key, set_size, dim=-2, scale=scale)  # (B, H, 2N, d)
        call.value = concat_reference(call.value, set_size, dim=-2)  # (B, H, 2N, d)
        if config.shared_score_shift == 0:
            return None
        bias = call.query.new_zeros(2 * own_tokens)  # (2N,)
        bias[own_tokens:] = config.shared_score_shift
        return call.attend(bias=bias)

    return hook


def attend_to_all(call: AttentionCall, set_size: int) -> Tensor:
    """Full sharing, the paper's ablation: every token attends to those of the whole set, without AdaIN."""
    if call.mask is not None:
        raise ValueError(f"full_attention_share cannot keep the mask at {call.site.name}; switch it off")

    def pool(features: Tensor) -> Tensor:
        sets = features.unflatten(0, (-1, set_size))  # (sets, set_size, heads, N, d)
        return sets.transpose(1, 2).flatten(2, 3)  # (sets, heads, set_size * N, d)

    output = call.attend(pool(call.query), pool(call.key), pool(call.value))  # (sets, heads, set_size * N, d)
    return output.unflatten(2, (set_size, -1)).transpose(1, 2).flatten(0, 1)  # (batch, heads, N, d)


def share_norm(set_size: int) -> NormHook:
    """Normalise each item jointly with its reference, put below it (height) or behind it (tokens), then crop.

    A group norm's statistics become those of the pair. A layer norm's are per token: nothing changes.
    """

    def hook(call: NormCall) -> Tensor:
        check_batch(call.hidden_states.shape[0], set_size)
        joint = concat_reference(call.hidden_states, set_size, dim=-2)  # (B, C, 2h, w) or (B, 2N, C)
        return call.forward(joint)[..., : call.hidden_states.shape[-2], :]  # (B, C, h, w) or (B, N, C)

    return hook


def unshared_layers(count: int, level: float) -> list[bool]:
    """Which of `count` self-attention layers are left alone at `only_self_level`, spread at a regular stride.

    The official rounding: strides are whole numbers, so of 70 layers 0.3 leaves 24 alone and 0.7 leaves 46.
    A level too low for one layer leaves none alone, where the official code divides by zero.
    """
    if level > 0.5:
        return [not alone for alone in unshared_layers(count, 1 - level)]
    wanted = int(level * count)
    stride = count // wanted if wanted else count + 1
    return [wanted > 0 and index % stride == 0 for index in range(count)]


def shared_sites(denoiser: nn.Module, config: StyleAlignedConfig) -> list[Site]:
    """The self-attention sites that `config` shares, counted in the official order: down, up, then mid."""
    candidates = [site for site in sites(denoiser) if site.kind == "self"]
    alone = unshared_layers(len(candidates), config.only_self_level)
    return [site for site, left_alone in zip(candidates, alone, strict=True) if not left_alone]


@contextmanager
def style_aligned(pipe: Any, config: StyleAlignedConfig, *, set_size: int) -> Iterator[list[Site]]:
    """Share style inside the block in sets of `set_size` prompts, the first the reference; gives the sites.

    Call the pipeline with one set or several in a row; whether guidance doubles them is read off the batch.
    """
    if not hasattr(pipe, "unet"):
        raise ValueError(
            f"StyleAligned needs a pipeline with a UNet, not {type(pipe).__name__}: in a transformer with positions "
            "in its keys, shared tokens would lie on top of each other",
        )
    chosen = shared_sites(pipe.unet, config) if config.edits_attention else []
    with ExitStack() as stack:
        stack.enter_context(whole_sets(pipe, set_size))
        if config.share_group_norm:
            stack.enter_context(norm_hook(pipe.unet, share_norm(set_size), kind=nn.GroupNorm))
        if config.share_layer_norm:
            stack.enter_context(norm_hook(pipe.unet, share_norm(set_size), kind=nn.LayerNorm))
        if chosen:
            hook = share_style(config, set_size=set_size)
            stack.enter_context(attention_hook(pipe.unet, hook, where=chosen))
        yield chosen


@contextmanager
def whole_sets(pipe: Any, set_size: int) -> Iterator[None]:
    """Let the pipeline draw whole sets only inside the block: ValueError for several pictures of each prompt, which it
    puts beside each other, and for prompts that are no row of sets."""
    encode, before = pipe.encode_prompt, pipe.__dict__.get("encode_prompt")
    signature = inspect.signature(encode)

    def checked(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if (given.get("num_images_per_prompt") or 1) > 1:
            raise ValueError("num_images_per_prompt cuts the sets across: give each set of prompts several times")
        texts = given.get("prompt") if given.get("prompt_embeds") is None else given["prompt_embeds"]
        count = 1 if texts is None or isinstance(texts, str) else len(texts)
        if given.get("do_classifier_free_guidance") and texts != [""] and count % set_size:  # [""]: guidance's own row
            raise ValueError(f"{count} prompts are no row of sets of {set_size}; give set_size=len(prompts)")
        return encode(*args, **kwargs)

    pipe.encode_prompt = checked
    try:
        yield
    finally:
        if before is None:
            del pipe.encode_prompt
        else:
            pipe.encode_prompt = before


def generate(
    pipe: Any,
    prompts: Sequence[str],
    config: StyleAlignedConfig,
    *,
    seed: int = 0,
    latents: Tensor | None = None,
    num_inference_steps: int = 50,
    guidance_scale: float = 5.0,
    negative_prompt: str | None = None,
    reference_trajectory: Tensor | None = None,
    offset: int = 0,
    callback: Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> list[Image.Image]:
    """One picture a prompt; the first is the reference. Noise: `latents`, or drawn on the CPU from `seed`.

    reference_trajectory: from `ddim_inversion` with as many steps; the first prompt describes that picture.
    Item 0 starts at `trajectory[offset]` and is put back on it after each step, never before `offset + 1`.
    callback: as diffusers' `callback_on_step_end`, called after the reference is put back on its trajectory.
    """
    prompts = listed(prompts)
    latents = starting_latents(pipe, len(prompts), seed) if latents is None else latents.clone()
    if reference_trajectory is not None:
        check_trajectory(pipe, reference_trajectory, latents, num_inference_steps, offset)
        latents[0] = reference_trajectory[offset].to(latents)

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if reference_trajectory is not None:
            tensors["latents"][0] = reference_trajectory[max(offset, step) + 1].to(tensors["latents"])
        return tensors if callback is None else callback(pipe, step, timestep, tensors)

    with style_aligned(pipe, config, set_size=len(prompts)):
        return pipe(
            prompts,
            negative_prompt=None if negative_prompt is None else [negative_prompt] * len(prompts),
            latents=latents.to(pipe.unet.dtype),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            callback_on_step_end=on_step_end,
            callback_on_step_end_tensor_inputs=["latents"],
        ).images


def starting_latents(pipe: Any, count: int, seed: int) -> Tensor:
    """Noise for `count` pictures, (count, C, h, w); item i is the same for every count above i.

    So a set can be grown in several batches around one reference. Random state: its own CPU generator.
    """
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (pipe.unet.config.in_channels, height, width)
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])


def _mask_with_reference(call: AttentionCall, set_size: int) -> Tensor | None:
    """The call's own mask, repeated for the reference's tokens."""
    if call.mask is None or call.mask.shape[-1] == 1:
        return call.mask
    if call.mask.shape[0] == call.query.shape[0] > 1:
        return concat_reference(call.mask, set_size, dim=-1)  # (B, ..., 2N)
    return torch.cat([call.mask, call.mask], dim=-1)  # (1, ..., 2N)


def check_batch(batch: int, set_size: int) -> None:
    """Raise ValueError if a batch cannot be made of sets of this size."""
    if set_size < 1 or batch % set_size:
        raise ValueError(f"a batch of {batch} is no row of sets of {set_size}; give set_size=len(prompts)")


def check_trajectory(pipe: Any, trajectory: Tensor, latents: Tensor, steps: int, offset: int) -> None:
    """Raise ValueError if a reference's trajectory does not belong to this sampling."""
    if not isinstance(pipe.scheduler, DDIMScheduler):
        name = type(pipe.scheduler).__name__
        raise ValueError(f"{name} cannot follow a DDIM trajectory; use studylib.models.load.use_ddim(pipe)")
    expected = (steps + 1, *latents.shape[1:])
    if trajectory.shape != expected:
        raise ValueError(
            f"the trajectory has shape {tuple(trajectory.shape)}, this sampling needs {expected}: "
            "invert with the same number of steps and a picture of the pipeline's size",
        )
    if not 0 <= offset < steps:
        raise ValueError(f"offset is in [0, {steps - 1}], not {offset}")
