"""Where attention happens in a denoiser: its sites, addressed by name, and what each of them attends to."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from diffusers.models.attention import AttentionModuleMixin
from torch import nn

from studylib.denoisers.forward import check_unwrapped
from studylib.errors import StudyError

# Does a model put the text before the picture in joint attention? Read in the model's attention processor.
TEXT_FIRST = {
    "FluxTransformer2DModel": True,
    "FluxControlNetModel": True,
    "SD3Transformer2DModel": False,
    "SD3ControlNetModel": False,
}
# These parts of a denoiser encode the image prompts of an IP-Adapter; their attention is not the denoiser's.
IMAGE_PROMPT_ENCODERS = {"encoder_hid_proj", "image_proj"}


@dataclass(frozen=True)
class Site:
    """One attention module: its name in the denoiser, what its queries attend to, its place in `sites()`."""

    name: str
    kind: Literal["self", "cross", "joint"]
    index: int


Where = str | Site | Callable[[Site], bool] | Iterable[str | Site]


def sites(denoiser: nn.Module) -> list[Site]:
    """All attention sites, in the order of diffusers' `attn_processors` (in a UNet: down, up, mid).

    Kind "joint": text and picture share one softmax, as in SD3 and in both kinds of FLUX block.
    """
    if not isinstance(denoiser, nn.Module):
        raise TypeError(
            "Attention sites are looked for in a denoiser, such as pipe.unet or pipe.transformer, "
            f"and a {type(denoiser).__name__} was given.",
        )
    check_unwrapped(denoiser)
    modules = [
        (name, module)
        for name, module in denoiser.named_modules()
        if _is_attention(module) and not IMAGE_PROMPT_ENCODERS & set(name.split("."))
    ]
    return [Site(name, _kind(module), index) for index, (name, module) in enumerate(modules)]


def _is_attention(module: nn.Module) -> bool:
    """Some processors are modules with a processor of their own; only attention modules can exchange theirs."""
    return callable(getattr(module, "processor", None)) and hasattr(module, "set_processor")


def reads_fused(attention: nn.Module) -> bool:
    """Whether an attention module computes query, key and value by one fused layer now, and not by `to_q`, `to_k`,
    `to_v`. In a UNet the layers and the flag of an earlier fusion stay behind, so its processor is asked."""
    if isinstance(attention, AttentionModuleMixin):
        return bool(getattr(attention, "fused_projections", False))
    return "Fused" in type(attention.processor).__name__


def check_unfused(network: nn.Module) -> None:
    """Raise StudyError if attention reads fused projections: a change of `to_q`, `to_k`, `to_v` would do nothing."""
    fused = [site.name for site in sites(network) if reads_fused(network.get_submodule(site.name))]
    if fused:
        raise StudyError(
            f"{len(fused)} attention layers have fused projections, such as {fused[0]}, and do not read to_q, to_k, "
            "to_v", "Call pipe.unfuse_qkv_projections() first",
        )


def _kind(module: nn.Module) -> Literal["self", "cross", "joint"]:
    if getattr(module, "add_q_proj", None) is not None or getattr(module, "pre_only", False):
        return "joint"
    return "cross" if getattr(module, "is_cross_attention", False) else "self"


def matched_sites(denoiser: nn.Module, where: Where) -> list[Site]:
    """The sites that `where` means, in the order of `sites`; LookupError if there are none."""
    found = sites(denoiser)
    kinds = Counter(site.kind for site in found)
    present = " and ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no"
    has = f"{type(denoiser).__name__} has {present} attention sites; sites(denoiser) lists them."
    if callable(where):
        matched = [site for site in found if where(site)]
    elif where in ("self", "cross", "joint"):
        matched = [site for site in found if site.kind == where]
    else:
        asked = [where] if isinstance(where, str | Site) else where
        names = {one.name if isinstance(one, Site) else one for one in asked}
        for name in sorted(names - {site.name for site in found}):
            nearest = difflib.get_close_matches(name, [site.name for site in found], n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise LookupError(f"No attention site is called {name!r}.{hint} {has}")
        matched = [site for site in found if site.name in names]
    if not matched:
        raise LookupError(f"No attention site matches where={where!r}. {has}")
    return matched


def text_first(denoiser: nn.Module, matched: list[Site]) -> bool:
    """Whether text comes before the picture; LookupError for joint attention in a model not in TEXT_FIRST."""
    for ancestor in type(denoiser).__mro__:
        if ancestor.__name__ in TEXT_FIRST:
            return TEXT_FIRST[ancestor.__name__]
    if any(site.kind == "joint" for site in matched):
        raise LookupError(
            f"Does {type(denoiser).__name__} put text or picture first in joint attention? Look it up in its "
            f"attention processor and add it to {__name__}.TEXT_FIRST, which knows {', '.join(TEXT_FIRST)}.",
        )
    return True
