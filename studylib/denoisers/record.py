"""Attention weights kept by site and step, and means over them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from studylib.denoisers.call import AttentionCall
from studylib.denoisers.sites import Site


class AttentionRecord:
    """Attention weights by site and step, on the CPU; `record_attention` makes one and fills it."""

    def __init__(self, *, steps: Collection[int] | None, per_head: bool, dtype: torch.dtype) -> None:
        self.sites: list[Site] = []
        self._asked = steps
        self._per_head = per_head
        self._dtype = dtype
        self._ran: dict[int, float] = {}  # step -> its timestep
        # (site name, image prompt) -> step -> one tensor for each run of the site at this step
        self._kept: dict[tuple[str, int | None], dict[int, list[Tensor]]] = defaultdict(dict)

    @property
    def steps(self) -> list[int]:
        """The steps of which weights are kept."""
        return sorted({step for by_step in self._kept.values() for step in by_step})

    def add(self, call: AttentionCall) -> None:
        """The hook: keep the weights of this call and leave the call as it is."""
        if call.step is None:
            raise ValueError(
                "Weights are kept by step, and the samples of this batch have different timesteps: "
                "run the denoiser with one timestep for all of them.",
            )
        if self._ran.setdefault(call.step, call.timestep) != call.timestep:
            raise ValueError(
                f"Step {call.step} of a second schedule in this block is at timestep {call.timestep:g}, "
                f"in the first it was at {self._ran[call.step]:g}: open a record for each of them.",
            )
        if self._asked is not None and call.step not in self._asked:
            return
        weights = call.weights().detach()
        if not self._per_head:
            weights = weights.mean(dim=1, keepdim=True)  # (batch, 1, tokens, key_tokens)
        by_step = self._kept[call.site.name, call.image_prompt]
        by_step.setdefault(call.step, []).append(weights.to("cpu", self._dtype))

    def maps(self, site: Site | str, *, image_prompt: int | None = None) -> Tensor:
        """Weights of one site (steps, batch, heads, tokens, key_tokens), float32; heads is 1 if averaged.

        Where a site ran several times at one timestep, as in two passes for guidance, these runs follow one
        another along the batch. Raises LookupError if there is nothing.
        """
        by_step = self._by_step(site, image_prompt)
        return torch.stack([torch.cat(by_step[step]).float() for step in sorted(by_step)])

    def mean(
        self,
        over: Iterable[Site | str] | None = None,
        *,
        tokens: int | None = None,
        steps: Collection[int] | None = None,
        image_prompt: int | None = None,
    ) -> Tensor:
        """Mean weights over sites, steps and heads (batch, tokens, key_tokens), float32, rows sum to 1.

        over: the sites, all by default. tokens: only sites with this many queries. steps: only these steps.
        Raises ValueError if the sites differ in size, LookupError if there is nothing.
        """
        total, sizes = torch.zeros(()), Counter()
        for site in self.sites if over is None else over:
            for step, runs in self._by_step(site, image_prompt).items():
                if (steps is None or step in steps) and (tokens is None or runs[0].shape[-2] == tokens):
                    weights = torch.cat(runs).float().mean(dim=1)  # (batch, tokens, key_tokens)
                    sizes[tuple(weights.shape)] += 1
                    if len(sizes) == 1:
                        total = total + weights
        if len(sizes) > 1:
            raise ValueError(
                "Maps of different sizes have no mean; these are (batch, tokens, key_tokens) "
                f"{list(sizes)}. Choose sites of one size with over= or tokens=.",
            )
        if not sizes:
            raise LookupError(f"No map has tokens={tokens} at steps={steps}; steps {self.steps} were kept.")
        return total / sizes.total()

    def _by_step(self, site: Site | str, image_prompt: int | None) -> dict[int, list[Tensor]]:
        name = site.name if isinstance(site, Site) else site
        if (name, image_prompt) in self._kept:
            return self._kept[name, image_prompt]
        if not self._ran:
            raise LookupError(
                "No attention was recorded, because none of the sites ran: did you run the pipeline inside "
                "the `with record_attention(...)` block, and with the denoiser that was given there?",
            )
        if not self._kept:
            raise LookupError(
                f"No attention was recorded: steps {self._asked} were asked for, {sorted(self._ran)} ran.",
            )
        kept = ", ".join(f"{site} image_prompt={prompt}" for site, prompt in self._kept)
        raise LookupError(f"No attention of {name!r} with image_prompt={image_prompt} was kept, only {kept}.")
