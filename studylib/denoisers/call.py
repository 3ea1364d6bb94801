"""What an attention hook is given: one scaled-dot-product call, which it may read and edit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from studylib.denoisers.sites import Site


@dataclass
class AttentionCall:
    """One scaled-dot-product call of one site; a hook may assign to its fields.

    query, key, value: (batch, heads, tokens, head_dim), after norms and rotary embedding.
    mask: as the model passed it, boolean (True: may attend) or additive, or None.
    hidden_states: the attention module's input, usually (batch, tokens, channels).
    places: name -> where such tokens lie among the keys: "text", "image", "image_prompt", or what a method has named;
    a name without tokens is not there. A hook that adds keys puts them after the module's own, so that the places stay
    true, and may name them for the hooks of outer blocks: `call.places["reference"] = slice(64, 128)`.
    timestep: as the denoiser received it. step: its place in the schedule, as `Clock` counts.
    Both are None where the samples of the batch have different timesteps, as in training.
    image_prompt: with an IP-Adapter one module attends several times, first to its own keys (None), then to
    each image prompt (0, 1, ... in running order; an adapter whose scale is 0 is not run).
    """

    site: Site
    step: int | None
    timestep: float | None
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    hidden_states: Tensor
    places: dict[str, slice]
    image_prompt: int | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def attend(
        self,
        query: Tensor | None = None,
        key: Tensor | None = None,
        value: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attention output (batch, heads, tokens, head_dim) with the call's own mask, scale and dropout.

        What is not given is the call's own. bias: added to the logits on top of the mask, broadcast to
        (batch, heads, tokens, key_tokens). Raises ValueError if the mask does not fit the keys.
        """
        query = self.query if query is None else query
        key = self.key if key is None else key
        value = self.value if value is None else value
        self._check_mask(key)
        mask, is_causal = self.mask, self.is_causal
        if bias is not None:
            # sdpa refuses a mask together with is_causal, so the causal mask becomes part of the bias
            mask, is_causal = self._logit_bias(query, key, bias), False
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout_p,
            is_causal=is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )  # (batch, heads, tokens, head_dim)

    def weights(self, bias: Tensor | None = None) -> Tensor:
        """Attention weights (batch, heads, tokens, key_tokens), float32, rows sum to 1; without dropout.

        They are computed beside the attention itself: time and memory grow with tokens x key_tokens.
        """
        query, key = self.query.float(), self.key.float()
        if self.enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key = key.repeat_interleave(groups, dim=-3)  # (batch, heads, key_tokens, head_dim)
        scale = 1 / math.sqrt(query.shape[-1]) if self.scale is None else self.scale
        logits = query @ key.transpose(-1, -2) * scale  # (batch, heads, tokens, key_tokens)
        self._check_mask(key)
        added = self._logit_bias(query, key, bias)
        if added is None:
            return logits.softmax(dim=-1)
        logits = logits + added
        # where every key is masked, sdpa gives zeros and softmax alone nan
        shut = logits.isneginf().all(dim=-1, keepdim=True)  # (batch, heads, tokens, 1)
        return logits.masked_fill(shut, 0).softmax(dim=-1).masked_fill(shut, 0)

    def _check_mask(self, key: Tensor) -> None:
        if self.mask is not None and self.mask.shape[-1] not in (1, key.shape[-2]):
            raise ValueError(
                f"At {self.site.name} a mask of shape {tuple(self.mask.shape)} covers {self.mask.shape[-1]} "
                f"key tokens, and the key of shape {tuple(key.shape)} has {key.shape[-2]}: "
                "assign a mask for all of them to call.mask.",
            )

    def _logit_bias(self, query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor | None:
        """Sum of all that is added to the logits: bias, mask and causal mask."""
        total = None
        if bias is not None:
            if not bias.is_floating_point():
                raise TypeError(
                    f"bias is added to the logits and was given as {bias.dtype}: make it a float tensor, "
                    "or assign a boolean mask to call.mask.",
                )
            total = torch.atleast_2d(bias.to(query.dtype))
        causal = None
        if self.is_causal:
            causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        for mask in (self.mask, causal):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
            total = mask if total is None else total + mask
        return total
