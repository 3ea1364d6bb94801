"""A bank: keys and values, or features, written by site and timestep in one pass and read in another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from studylib.denoisers.attention import attention_hook
from studylib.denoisers.call import AttentionCall
from studylib.denoisers.hooks import FeatureCall, feature_hook
from studylib.denoisers.sites import Where


class Bank:
    """Tensors by name of a site or module, and timestep; `print` says how many there are and what they take.

    device: where they are kept, by default where they were made; "cpu" spares a GPU's memory and costs the way there
    and back. dtype: how floating-point tensors are kept, by default as they were.
    """

    def __init__(self, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        self.device, self.dtype = device, dtype
        self._kept: dict[str, dict[float, list[tuple[Tensor, ...]]]] = {}

    def write(self, name: str, timestep: float | None, *tensors: Tensor) -> None:
        """Keep copies of tensors, without gradients; another pass at the same timestep is kept as another run.

        Raises ValueError without a timestep, as where the samples of a batch have different ones.
        """
        if timestep is None:
            raise ValueError("a bank is written by timestep, and this forward has not one timestep for all its samples")
        kept = tuple(
            tensor.detach().to(
                self.device or tensor.device, self.dtype if tensor.is_floating_point() else tensor.dtype, copy=True
            )
            for tensor in tensors
        )
        self._kept.setdefault(name, {}).setdefault(timestep, []).append(kept)

    def read(
        self, name: str, timestep: float | None, *, like: Tensor | None = None, run: int | None = None
    ) -> tuple[Tensor, ...]:
        """What was written under a name and timestep: (key, value) of attention, (output,) of a module.

        like: a tensor whose device and dtype the result takes. run: which of several runs at this timestep, in the
        order of writing. Raises LookupError for what was not written, and for several runs without `run`.
        """
        if timestep not in self._kept.get(name, {}):
            raise LookupError(self._missing(name, timestep))
        runs = self._kept[name][timestep]
        if run is None and len(runs) > 1:
            raise LookupError(f"{name} ran {len(runs)} times at timestep {timestep:g}: choose one with run=")
        tensors = runs[run or 0]
        return tensors if like is None else tuple(tensor.to(like.device, like.dtype) for tensor in tensors)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    @property
    def names(self) -> list[str]:
        """The sites or modules that were written."""
        return list(self._kept)

    @property
    def timesteps(self) -> list[float]:
        """All timesteps at which something was written, the noisiest first."""
        return sorted({timestep for by_time in self._kept.values() for timestep in by_time}, reverse=True)

    @property
    def memory_mib(self) -> float:
        """MiB that the tensors take."""
        return sum(tensor.nbytes for tensor in self._tensors()) / 2**20

    def __repr__(self) -> str:
        devices = ", ".join(sorted({str(tensor.device) for tensor in self._tensors()})) or "no device"
        return (
            f"Bank of {len(self.names)} places at {len(self.timesteps)} timesteps: "
            f"{self.memory_mib:.1f} MiB on {devices}"
        )

    @contextmanager
    def writing_attention(
        self, denoiser: nn.Module, *, where: Where, timesteps: Collection[float] | None = None
    ) -> Iterator[Bank]:
        """Write keys and values of the matched sites while the block runs; changes no output.

        timesteps: only these. In an inner block they are the model's own, in an outer one as the inner hook has edited
        them. Image prompts of an IP-Adapter are left out.
        """

        def keep(call: AttentionCall) -> None:
            if call.image_prompt is None and (timesteps is None or call.timestep in timesteps):
                self.write(call.site.name, call.timestep, call.key, call.value)

        with attention_hook(denoiser, keep, where=where):
            yield self

    @contextmanager
    def writing_features(
        self, denoiser: nn.Module, *, where: str | Iterable[str], timesteps: Collection[float] | None = None
    ) -> Iterator[Bank]:
        """Write the outputs of the modules called `where` while the block runs: all tensors of each output."""

        def keep(call: FeatureCall) -> None:
            if timesteps is None or call.timestep in timesteps:
                self.write(call.name, call.timestep, *_flat(call.output))

        with feature_hook(denoiser, keep, where=where):
            yield self

    def _tensors(self) -> Iterator[Tensor]:
        for by_time in self._kept.values():
            for runs in by_time.values():
                for tensors in runs:
                    yield from tensors

    def _missing(self, name: str, timestep: float | None) -> str:
        if not self._kept:
            return "nothing was written to this bank: run the denoiser inside one of its blocks first"
        if name not in self._kept:
            return f"nothing was written of {name!r}, only of {', '.join(self.names)}"
        times = ", ".join(f"{time:g}" for time in sorted(self._kept[name], reverse=True))
        return f"{name} was not written at timestep {timestep}, only at {times}: both passes need the same schedule"


def _flat(output: Tensor | tuple) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _flat(part)]
