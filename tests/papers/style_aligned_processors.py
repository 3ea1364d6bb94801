"""StyleAligned the usual way, to compare with: self-attention processors replaced, norms' forwards patched.

Written for these tests after the paper and the behaviour of its released code, with that code's limits:
guidance must be on, since the batch is cut in two, and a set has at least two pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn


def leaders(x: Tensor) -> Tensor:
    """The first item of each guidance half in the place of all items of that half."""
    half = x.shape[0] // 2
    return torch.cat([x[:1].expand(half, *x.shape[1:]), x[half : half + 1].expand(half, *x.shape[1:])])


def to_leaders_statistics(x: Tensor) -> Tensor:
    mean, std = x.mean(dim=-2, keepdim=True), (x.var(dim=-2, keepdim=True) + 1e-5).sqrt()
    return (x - mean) / std * leaders(std) + leaders(mean)


class SharedProcessor:
    """Attention written out from projections to output, with the sharing in between."""

    def __init__(self, config) -> None:
        self.config = config
        self.plain = AttnProcessor2_0()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        if self.config.full_attention_share:
            batch, tokens, width = hidden_states.shape
            pooled = hidden_states.reshape(2, batch // 2 * tokens, width)
            return self.plain(attn, pooled, None, attention_mask).reshape(batch, tokens, width)
        residual, batch = hidden_states, hidden_states.shape[0]

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

        query, key, value = (heads(to(hidden_states)) for to in (attn.to_q, attn.to_k, attn.to_v))
        if self.config.adain_queries:
            query = to_leaders_statistics(query)
        if self.config.adain_keys:
            key = to_leaders_statistics(key)
        if self.config.adain_values:
            value = to_leaders_statistics(value)
        if self.config.share_attention:
            hidden_states = self.shared(attn, query, key, value)
        else:
            hidden_states = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        hidden_states = hidden_states.transpose(1, 2).reshape(batch, -1, attn.heads * query.shape[-1])
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor

    def shared(self, attn, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scale, shift = self.config.shared_score_scale, self.config.shared_score_shift
        tokens, half = key.shape[-2], key.shape[0] // 2
        reference_key = leaders(key)
        if scale != 1:
            is_leader = torch.tensor([i % half == 0 for i in range(2 * half)]).view(-1, 1, 1, 1)
            reference_key = torch.where(is_leader, reference_key, scale * reference_key)
        key = torch.cat([key, reference_key], dim=2)
        value = torch.cat([value, leaders(value)], dim=2)
        if shift == 0:
            return F.scaled_dot_product_attention(query, key, value)
        logits = torch.einsum("bhqd,bhkd->bhqk", query, key) * attn.scale
        logits[..., tokens:] += shift
        return torch.einsum("bhqk,bhkd->bhqd", logits.softmax(dim=-1), value)


def stride_switch(count: int, level: float) -> list[bool]:
    """Which layers stay unshared; fails with ZeroDivisionError where the released code does."""
    if level in (0, 1):
        return [level == 1] * count
    part = 1 - level if level > 0.5 else level
    step = count // int(part * count)
    return [(i % step == 0) != (level > 0.5) for i in range(count)]


def patch_norms(unet: nn.Module, kind: type[nn.Module]) -> None:
    for norm in [module for module in unet.modules() if isinstance(module, kind)]:

        def joint(x: Tensor, forward=norm.forward) -> Tensor:
            return forward(torch.cat([x, leaders(x)], dim=-2))[..., : x.shape[-2], :]

        norm.forward = joint


def install(unet: nn.Module, config) -> None:
    """Turn `unet` into a StyleAligned one, for good."""
    if config.share_group_norm:
        patch_norms(unet, nn.GroupNorm)
    if config.share_layer_norm:
        patch_norms(unet, nn.LayerNorm)
    names = list(unet.attn_processors)
    alone = iter(stride_switch(sum("attn1" in name for name in names), config.only_self_level))
    shared = {name for name in names if "attn1" in name and not next(alone)}
    processors = {name: SharedProcessor(config) if name in shared else AttnProcessor2_0() for name in names}
    unet.set_attn_processor(processors)
