"""One denoising step of StyleAligned, hooks against replaced processors: ratios of time and of peak memory.

Run from the repository's root: `python -m tests.bench.bench_style_aligned [--rounds 9] [--device cuda]`. Both
sides have the same weights and inputs, take turns in going first, and must agree before anything is timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from papers.style_aligned.method import StyleAlignedConfig, style_aligned
from tests import tiny_pipelines
from tests.papers import style_aligned_processors

SET_SIZE, SIZE = 4, 48
ATTENTION = StyleAlignedConfig(share_group_norm=False, share_layer_norm=False)
CASES = {
    "attention (SDXL notebook)": ATTENTION,
    "attention and norms (SD 1.4 notebook)": StyleAlignedConfig(),
    "attention, shift log 2": dataclasses.replace(ATTENTION, shared_score_shift=math.log(2)),
    "attention, scale 0.5": dataclasses.replace(ATTENTION, shared_score_scale=0.5),
    "full sharing": dataclasses.replace(ATTENTION, full_attention_share=True),
}
SDXL_LIKE = {  # no attention at the top, more and deeper transformers further down
    "sample_size": SIZE, "block_out_channels": (32, 64, 128), "norm_num_groups": 8, "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 2, 4), "transformer_layers_per_block": (1, 1, 2),
}

Step = Callable[[], Tensor]


class LiveBytes(TorchDispatchMode):
    """Peak size of the tensors that were made inside the block and were alive at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.storages = {key: entry for key, entry in self.storages.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return output


def peak_mib(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with LiveBytes() as live:
        step()
    return live.peak / 2**20


def milliseconds(step: Step, device: torch.device) -> float:
    # on the CPU this process's own time counts, so that other programs' load does not
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (clock() - start)


def make_steps(config: StyleAlignedConfig, device: torch.device) -> tuple[Step, Step]:
    """(hooks, processors): functions that run one guided step of a set, hooks opened and closed within it."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pipes = [tiny_pipelines.sdxl(**SDXL_LIKE) for _ in range(2)]
    for pipe in pipes:
        pipe.unet.to(device, dtype)
    style_aligned_processors.install(pipes[1].unet, config)
    generator = torch.Generator().manual_seed(0)
    batch = 2 * SET_SIZE

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    inputs = {
        "sample": noise(batch, 4, SIZE, SIZE), "timestep": 500, "encoder_hidden_states": noise(batch, 16, 64),
        "added_cond_kwargs": {"text_embeds": noise(batch, 32), "time_ids": noise(batch, 6)},
    }

    def denoise(unet: nn.Module) -> Tensor:
        with torch.no_grad():
            return unet(**inputs).sample

    def with_hooks() -> Tensor:
        with style_aligned(pipes[0], config, set_size=SET_SIZE):
            return denoise(pipes[0].unet)

    return with_hooks, lambda: denoise(pipes[1].unet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{options.device}, {threads} threads, {options.rounds} rounds, set of {SET_SIZE}, guided")
    print(f"{'':38} {'hooks':>9} {'processors':>11} {'time ratio (range)':>23} {'peak MiB':>15} {'ratio':>6}")
    for name, config in CASES.items():
        hooks, processors = make_steps(config, options.device)
        torch.testing.assert_close(hooks(), processors(), rtol=1e-2, atol=1e-2)
        memory = peak_mib(hooks, options.device), peak_mib(processors, options.device)
        times = []
        for number in range(options.rounds):
            pair = {}
            for step in (hooks, processors) if number % 2 else (processors, hooks):
                pair[step] = milliseconds(step, options.device)
            times.append((pair[hooks], pair[processors]))
        ratios = sorted(ours / theirs for ours, theirs in times)
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        sizes = f"{memory[0]:.1f}/{memory[1]:.1f}"
        timed = f"{ours:6.1f} ms {theirs:8.1f} ms {spread:>23}"
        print(f"{name:38} {timed} {sizes:>15} {memory[0] / memory[1]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
