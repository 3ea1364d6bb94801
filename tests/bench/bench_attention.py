"""What an attention hook that does nothing costs: `python tests/bench/bench_attention.py`.

Unhooked and hooked runs of one UNet take turns, and medians are compared. On the CPU it is the processor time
of this thread that counts, so that other programs on the machine do not. The UNet has the tiny world's size
(64, 96, 128 channels, 16x16 latents of 8 channels).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel

from studylib.denoisers.attention import attention_hook

TARGET = 1.03  # hooked over unhooked

Block = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Comparison:
    """Median seconds of a run in two settings, and the median ratio of the pairs, candidate over baseline."""

    baseline: float
    candidate: float
    ratio: float


def compare(
    run: Callable[[], object],
    baseline: Block,
    candidate: Block,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time `run` inside either block in turn, the first of each pair changing; entering a block is not timed."""

    def seconds(block: Block) -> float:
        with block():
            start = clock()
            run()
            return clock() - start

    seconds(baseline), seconds(candidate)  # the first runs allocate
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            second, first = seconds(candidate), seconds(baseline)
            pairs.append((first, second))
        else:
            pairs.append((seconds(baseline), seconds(candidate)))
    medians = [statistics.median(times) for times in zip(*pairs, strict=True)]
    return Comparison(*medians, statistics.median(b / a for a, b in pairs))


def tiny_world_unet(device: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16, in_channels=8, out_channels=8, block_out_channels=(64, 96, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128, attention_head_dim=4,
    ).eval().to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a no-op attention hook over the unhooked denoiser.")
    parser.add_argument("--rounds", type=int, default=30, help="pairs of runs")
    parser.add_argument("--steps", type=int, default=5, help="forwards in a run, as a picture takes several")
    parser.add_argument("--batch", type=int, default=2, help="samples in a forward; 2 is one picture with guidance")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    unet = tiny_world_unet(options.device)
    latents = torch.randn(options.batch, 8, 16, 16, device=options.device)
    prompt_embeds = torch.randn(options.batch, 32, 128, device=options.device)

    @torch.no_grad()
    def denoise() -> None:
        for timestep in range(options.steps):
            unet(latents, timestep, encoder_hidden_states=prompt_embeds)
        if options.device != "cpu":
            torch.cuda.synchronize()

    print(
        f"batch {options.batch}, {options.steps} steps, {options.rounds} pairs, {options.device}, "
        f"{torch.get_num_threads()} threads",
    )
    blocks: dict[str, Block] = {"no hook (noise)": nullcontext}
    for name, where in (("self sites", "self"), ("cross sites", "cross"), ("all sites", lambda site: True)):
        blocks[name] = lambda where=where: attention_hook(unet, lambda call: None, where=where)
    clock = time.thread_time if options.device == "cpu" else time.perf_counter
    for name, block in blocks.items():
        result = compare(denoise, nullcontext, block, options.rounds, clock)
        verdict = "within" if result.ratio <= TARGET else "OVER"
        print(
            f"{name:>16}: unhooked {1000 * result.baseline:.2f} ms, hooked {1000 * result.candidate:.2f} ms, "
            f"median ratio {result.ratio:.4f} ({verdict} {TARGET})",
            flush=True,
        )
    start = time.perf_counter()
    with attention_hook(unet, lambda call: None, where=lambda site: True) as matched:
        seconds = time.perf_counter() - start
    print(f"opening a block on {len(matched)} sites: {1000 * seconds:.2f} ms, once a picture")


if __name__ == "__main__":
    main()
