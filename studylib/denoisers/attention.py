"""Read and edit attention in any denoiser at one point: the scaled-dot-product call of its attention modules.

No attention processor is replaced, so LoRA, IP-Adapter and the chosen backend keep working under a hook.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studylib.denoisers.call import AttentionCall
from studylib.denoisers.forward import forward_wrapped
from studylib.denoisers.places import image_counts, places_of
from studylib.denoisers.record import AttentionRecord
from studylib.denoisers.sites import Site, Where, matched_sites, sites, text_first
from studylib.denoisers.steps import Clock

__all__ = ["AttentionCall", "AttentionRecord", "Hook", "Site", "attention_hook", "record_attention", "sites"]

Hook = Callable[[AttentionCall], Tensor | None]

SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class _Turn(NamedTuple):
    """Who answers the next scaled-dot-product call: the hook at this level of a run of a hooked module."""

    run: _SiteRun
    level: int
    inner: AttentionCall | None  # the call that the hook before it is answering


_turn: ContextVar[_Turn | None] = ContextVar("_turn", default=None)  # of this thread; None: torch itself


@contextmanager
def attention_hook(denoiser: nn.Module, hook: Hook, *, where: Where) -> Iterator[list[Site]]:
    """Call `hook(call)` for each attention call of the matched sites inside the block; gives these sites.

    hook: returns None to go on with the call as edited, or its output (batch, heads, tokens, head_dim).
    where: "self", "cross" or "joint", a predicate of Site, or names or Sites.
    Blocks nest: the inner hook comes first, and each of its `attend` is a call that the outer hook sees.
    Raises LookupError if nothing matches; when the denoiser runs, RuntimeError if a matched site computes its
    attention in another way or under gradient checkpointing, ValueError on a wrong output shape.
    """
    matched = matched_sites(denoiser, where)
    order = text_first(denoiser, matched)
    clock = Clock(denoiser)
    if not clock.timed:
        raise TypeError(
            f"{type(denoiser).__name__}.forward takes no timestep, so a step cannot be told: pass the "
            "denoiser's network itself, such as pipe.unet or pipe.transformer.",
        )
    with ExitStack() as stack:
        stack.enter_context(_sdpa.dispatched())
        stack.enter_context(forward_wrapped(denoiser, _outside_of_sites))
        stack.enter_context(clock.running())
        for site in matched:
            hooked = _HookedSite(site, denoiser.get_submodule(site.name), hook, clock, order)
            stack.enter_context(forward_wrapped(hooked.module, hooked.run))
        yield matched


@contextmanager
def record_attention(
    denoiser: nn.Module,
    *,
    where: Where,
    steps: Collection[int] | None = None,
    per_head: bool = False,
    dtype: torch.dtype = torch.float16,
) -> Iterator[AttentionRecord]:
    """Keep the attention weights of the matched sites while the block runs; changes no output.

    steps: the steps to keep, all by default. per_head: keep every head, otherwise their mean, which takes
    1/heads of the memory. dtype: how they are kept on the CPU; float16 takes 2 bytes x batch x tokens x
    key_tokens for a site and step. In an inner block it sees the call as the model made it, in an outer block
    as the inner hook has edited it.
    """
    record = AttentionRecord(steps=steps, per_head=per_head, dtype=dtype)
    with attention_hook(denoiser, record.add, where=where) as record.sites:
        yield record


def _outside_of_sites(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The denoiser's forward, begun anew where a hook has run it from within a site."""
    token = _turn.set(None)
    try:
        return forward(*args, **kwargs)
    finally:
        _turn.reset(token)


@dataclass
class _HookedSite:
    """One matched site: its module runs as before, except that its attention calls go to the hook."""

    site: Site
    module: nn.Module
    hook: Hook
    clock: Clock
    text_first: bool

    def run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        if self.clock.now is None:
            raise RuntimeError(f"Site {self.site.name} ran outside its denoiser, so it has no step.")
        turn = _turn.get()
        if turn is not None and turn.level == 0 and turn.run.hooked[0].module is self.module:
            turn.run.hooked.append(self)  # an inner block came first and has started the run
            turn.run.calls.append(0)
            return forward(*args, **kwargs)
        hidden_states = args[0] if args else kwargs["hidden_states"]
        context = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        if isinstance(context, tuple):  # a UNet with IP-Adapter gives (text, image prompts)
            context = context[0]
        run = _SiteRun(hidden_states, 0 if context is None else context.shape[1], [self])
        token = _turn.set(_Turn(run, 0, None))
        try:
            output = forward(*args, **kwargs)
        finally:
            _turn.reset(token)
        run.check_calls()
        return output


@dataclass
class _SiteRun:
    """One run of one attention module, with the hooks of all blocks around it, the innermost first."""

    hidden_states: Tensor
    text_tokens: int
    hooked: list[_HookedSite]
    calls: list[int] = field(default_factory=lambda: [0])  # as long as `hooked`, by place in it

    def answer(
        self,
        level: int,
        inner: AttentionCall | None,
        *,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Output of the hook at this level; `inner` is the call that the hook before it is answering."""
        hooked = self.hooked[level]
        if inner is None:
            places, image_prompt = self._places(key.shape[-2])
        else:  # the inner hook may have added keys, and its own call tells where the original ones are
            places, image_prompt = dict(inner.places), inner.image_prompt
        self.calls[level] += 1
        now = hooked.clock.now
        call = AttentionCall(
            hooked.site, now.step, now.timestep, query, key, value, attn_mask, self.hidden_states, places,
            image_prompt, **options,
        )
        expected = (*query.shape[:-1], value.shape[-1])
        token = _turn.set(_Turn(self, level + 1, call) if level + 1 < len(self.hooked) else None)
        try:
            output = hooked.hook(call)
            output = call.attend() if output is None else output
            if not isinstance(output, Tensor):
                raise TypeError(f"A hook must return a Tensor or None, not a {type(output).__name__}.")
            if output.shape != expected:
                raise ValueError(
                    f"The hook at {call.site.name} gave an output of shape {tuple(output.shape)}; it must be "
                    f"{expected} (batch, heads, tokens, head_dim).",
                )
        except Exception as error:
            error.add_note(f"In the attention hook at site {call.site.name}, step {call.step}.")
            raise
        finally:
            _turn.reset(token)
        return output

    def check_calls(self) -> None:
        """RuntimeError if one of the hooks was not called."""
        name, processor = self.hooked[0].site.name, type(self.hooked[0].module.processor).__name__
        if not self.calls[0]:
            raise RuntimeError(
                f"Site {name} never called scaled_dot_product_attention. Its processor is {processor}: undo "
                "attention slicing, xformers and the like, or choose one that calls it, for instance with "
                "denoiser.set_attn_processor(AttnProcessor2_0()).",
            )
        if not all(self.calls):
            raise RuntimeError(
                f"At site {name} an inner hook returned an output without call.attend, so the outer hook saw "
                "no call. Nest the blocks the other way round.",
            )

    def _places(self, key_tokens: int) -> tuple[dict[str, slice], int | None]:
        """Where kinds of tokens lie among the keys, and the number of the image prompt."""
        hooked, number = self.hooked[0], self.calls[0]
        image_first = hooked.site.kind == "joint" and not hooked.text_first
        if number and hasattr(hooked.module.processor, "to_k_ip"):
            # SD3 attends to its own picture together with the image prompt, and puts its own first
            own_tokens = self.hidden_states.shape[1] if image_first else 0
            return places_of([("image", own_tokens), ("image_prompt", key_tokens - own_tokens)]), number - 1
        text_tokens = self.text_tokens
        if hooked.site.kind == "joint" and not text_tokens:
            # a single FLUX block is given text and picture as one sequence
            prompt_embeds = hooked.clock.now.inputs.get("encoder_hidden_states")
            text_tokens = 0 if prompt_embeds is None else prompt_embeds.shape[1]
        if text_tokens == key_tokens:
            return {"text": slice(0, key_tokens)}, None
        text, image = ("text", text_tokens), image_counts(key_tokens - text_tokens)
        if not text_tokens and len(image) == 1:
            return {"image": slice(0, key_tokens)}, None
        return places_of([*image, text] if image_first else [text, *image]), None


class _Dispatch:
    """Stands in for torch's scaled_dot_product_attention while at least one block is open.

    A TorchFunctionMode would see the call as well, but also every other operation of the attention module: measured,
    45 us a site in place of 12. Calls from other threads and from modules without a hook go straight to torch.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.original = F.scaled_dot_product_attention

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        turn = _turn.get()
        if turn is None:
            return self.original(*args, **kwargs)
        return turn.run.answer(turn.level, turn.inner, **dict(zip(SDPA_ARGUMENTS, args, strict=False)), **kwargs)

    @contextmanager
    def dispatched(self) -> Iterator[None]:
        with self.lock:
            if not self.blocks:
                self.original = F.scaled_dot_product_attention  # or what the user has put there
                F.scaled_dot_product_attention = self
            self.blocks += 1
        try:
            yield
        finally:
            with self.lock:
                self.blocks -= 1
                if not self.blocks:
                    F.scaled_dot_product_attention = self.original


_sdpa = _Dispatch()
