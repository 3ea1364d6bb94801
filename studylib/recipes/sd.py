"""The tiny world's text-to-image model: a real `StableDiffusionPipeline` at 128x128.

Stands for Stable Diffusion 1.5. The text encoder is the tiny CLIP's text tower; it stays frozen, as does the
autoencoder, whose latents decide the U-Net's shape. Bars, on 600 held-out prompts with 25 DDIM steps: noun, colour,
style, place >= 98 %; hair, glasses, beard, expression asked >= 92 %; sure of the pattern as often as on renders, within
5 points; Frechet distance in judge features <= 1.5 x that of reconstructions; faces found in >= 95 % of people.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from studylib.denoisers.denoiser import Denoiser
from studylib.models.files import WEIGHTS
from studylib.models.load import load_part
from studylib.recipes import recipe
from studylib.recipes.bars import measure, sample
from studylib.recipes.budget import read_budget
from studylib.recipes.clip import tokenize
from studylib.showing import figures
from studylib.world.data import scene_number
from studylib.world.draw import PART_CLASSES, SIZE, part_map
from studylib.world.scene import STYLES, THINGS, caption

CELLS = 16  # side of the part map that a middle level is to tell
EMPTY_CAPTIONS = 0.1  # classifier-free guidance needs a model of all pictures
SNR_GAMMA = 5.0  # min-SNR weighting (Hang et al. 2023); its power 1 is theirs, 0 is the plain loss
SHEET_PROMPTS = [
    *(f"a {noun}" for noun in THINGS),
    *(f"a red car on grass in {style} style" for style in STYLES),
    *(f"a yellow cat at night in {style} style" for style in STYLES),
    "a person",
    "a smiling person with long blond hair in a blue shirt",
    "a person with spiky red hair and glasses on the beach in flat style",
    "a surprised person with gray hair in a bun in snow in papercut style",
    "a purple house in snow as a watercolor painting",
    "a teal boat by the sea in pixel style",
    "a green cup on a plain background in flat style",
    "a pink flower in a meadow in neon style",
]


CHANNELS = {16: (64, 96, 128), 32: (32, 64, 128)}  # by the side of the latents


def build(latent_channels: int = 8, side: int = 16) -> UNet2DConditionModel:
    """A fresh U-Net. On 16x16 latents it attends to the text at every resolution; on 32x32 ones not at the top, as
    SDXL."""
    channels = CHANNELS[side]
    top = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D") if side == 16 else ("DownBlock2D", "UpBlock2D")
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=(top[0], "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", top[1]),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as a pipeline with Stable Diffusion 1.5's noise schedule; progress bars off."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encoded(denoiser: Denoiser, data: np.ndarray, path: Path) -> Tensor:
    """Scaled latents of all pictures, (N, C, h, w) fp16, kept in `path`."""
    if not path.exists():
        parts = []
        for start in tqdm(range(0, len(data), 200), desc="encoding pictures"):
            images = [Image.fromarray(picture) for picture in data[start : start + 200]]
            parts.append(denoiser.encode(images).mean.half().cpu())
        torch.save(torch.cat(parts), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return torch.load(path, weights_only=True)


def part_maps(first: int, count: int, path: Path) -> np.ndarray:
    """What each cell of each scene shows (`world.draw.part_map`), (N, classes, 16, 16) in 255ths, kept in `path`."""
    if not path.exists():
        numbers = range(first, first + count)
        with ProcessPoolExecutor(2) as pool:
            maps = [*tqdm(pool.map(_part_map, numbers, chunksize=500), total=count, desc="mapping parts")]
        with path.with_suffix(".partial").open("wb") as file:
            np.save(file, np.stack(maps))
        path.with_suffix(".partial").rename(path)
    return np.load(path, mmap_mode="r")


def _part_map(number: int) -> np.ndarray:
    return (255 * part_map(scene_number(number), CELLS)).astype(np.uint8)


class Trainee(nn.Module):
    """The U-Net and, in training only, a linear reading of one middle level that must tell what each of 16x16 cells
    shows: the scene's own part map stands for the pretrained features of REPA (Yu et al. 2024)."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        level = 1 if unet.config.sample_size == CELLS else 0  # the level of the way up that leaves 16x16 cells
        block = unet.up_blocks[level]
        self.outputs = nn.Conv2d(block.resnets[-1].out_channels, len(PART_CLASSES), 1)
        self.features: Tensor | None = None
        block.register_forward_hook(lambda module, args, output: setattr(self, "features", output))

    def forward(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted noise, and logits of the part map (N, classes, 16, 16)."""
        noise_pred = self.unet(latents, timesteps, prompt_embeds).sample
        return noise_pred, self.outputs(self.features)


def main() -> None:
    budget = read_budget(
        "sd", __doc__.splitlines()[0], steps=20_000, minutes=300, batch_size=48, scenes=48_000,
        options={
            "snr_power": {"type": float, "default": 0.0, "help": "loss weight (5 / SNR, at most 1) to this power"},
            "people": {"type": float, "default": 0.3, "help": "this share of a batch is drawn among people alone"},
            "align": {"type": float, "default": 0.1, "help": "weight of the part map's loss; 0: without"},
            "measure": {"action": argparse.BooleanOptionalAction, "default": True, "help": "judge 600 samples at last"},
        },
    )  # fmt: skip
    device, first = budget.device, budget.seed * budget.scenes
    tokenizer = load_part("transformers", "CLIPTokenizer", WEIGHTS / "clip", torch.float32)
    text_encoder = load_part("transformers", "CLIPTextModel", WEIGHTS / "clip", torch.float32).to(device).eval()
    vae = load_part("diffusers", "AutoencoderKL", WEIGHTS / "vae", torch.float32).to(device).eval()
    side = SIZE // 2 ** (len(vae.config.block_out_channels) - 1)
    unet = recipe.start(budget, build(vae.config.latent_channels, side), part="unet")
    pipe = assemble(unet, vae, text_encoder, tokenizer)
    data, scenes = recipe.drawn(budget.scenes, first=first), f"{first}_{budget.scenes}"
    with PartialState().main_process_first():
        latents = encoded(Denoiser(pipe), data, budget.folder / f"latents_{scenes}.pt")
        maps = part_maps(first, budget.scenes, budget.folder / f"parts_{scenes}.npy")
    model = Trainee(unet).to(device)
    alphas = pipe.scheduler.alphas_cumprod.to(device)
    predict = torch.compile(model) if budget.compile else model
    people = torch.tensor([i for i in range(budget.scenes) if scene_number(first + i).person is not None])

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        n = budget.batch_size
        index = torch.randint(len(latents), (n,), generator=generator)
        words = random.Random(int(torch.randint(1 << 31, (1,), generator=generator)))
        empty = torch.rand(n, generator=generator) < EMPTY_CAPTIONS  # these keep the world's own share of people
        turned = (torch.rand(n, generator=generator) < budget.options["people"]) & ~empty
        index = torch.where(turned, people[torch.randint(len(people), (n,), generator=generator)], index)
        scenes = [scene_number(first + i) for i in index.tolist()]
        captions = ["" if e else caption(scene, words) for e, scene in zip(empty.tolist(), scenes, strict=True)]
        noise = torch.randn(n, *latents.shape[1:], generator=generator)
        # one timestep in each of n equal slices: less variance than n independent draws
        slices = torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)
        timesteps = (slices / n * 1000).long()
        return {"index": index, "ids": tokenize(tokenizer, captions), "noise": noise, "timesteps": timesteps}

    def loss(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids, noise, timesteps = (batch[name].to(device) for name in ("ids", "noise", "timesteps"))
        clean = latents[batch["index"]].float().to(device)
        with torch.no_grad():
            prompt_embeds = text_encoder(ids).last_hidden_state  # (n, 32, 128)
        noise_pred, logits = predict(pipe.scheduler.add_noise(clean, noise, timesteps), timesteps, prompt_embeds)
        error = (noise_pred.float() - noise).square().mean(dim=(1, 2, 3))  # (n,)
        snr = alphas[timesteps] / (1 - alphas[timesteps])
        weight = (SNR_GAMMA / snr).clamp(max=1) ** budget.options["snr_power"]
        shown = torch.from_numpy(maps[batch["index"].numpy()]).to(device).float() / 255  # (n, classes, 16, 16)
        seen = alphas[timesteps].sqrt()  # in pure noise there is nothing to be told
        parts = (F.cross_entropy(logits.float(), shown, reduction="none").mean(dim=(1, 2)) * seen).mean()
        value = (error * weight).mean() + budget.options["align"] * parts
        return {"loss": value, "error": error.mean(), "parts": parts}

    def sheet(_: Trainee) -> Image.Image:
        return figures.sheet(sample(pipe, SHEET_PROMPTS, seed=0), 8, gap=2)

    pace = 0.6 if budget.init else 1.0
    trained = recipe.train(
        budget, model, draw, loss, lr=8e-4 * pace, muon_lr=1.5e-3 * pace, ema=0.998, sheet=sheet, sheet_every=10
    )
    recipe.save_half(unet, budget.out / "unet")
    pipe.scheduler.save_pretrained(budget.out / "scheduler")
    pipe.save_config(budget.out)
    measured = measure(pipe, budget.folder) if budget.options["measure"] else {}
    recipe.write_metrics(budget, unet, trained, measured)


if __name__ == "__main__":
    recipe.run(main)
