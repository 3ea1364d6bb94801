"""The tiny world's autoencoder: 128x128x3 pictures to 16x16x8 latents and back, as `AutoencoderKL`.

Stands for Stable Diffusion's VAE. Bar: PSNR >= 33 dB on held-out scenes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from studylib.measuring import metrics
from studylib.measuring.pictures import to_images, to_pixels
from studylib.recipes import recipe
from studylib.recipes.budget import read_budget
from studylib.showing import figures
from studylib.world.data import HELD_OUT

LAYOUTS = {8: ((16, 32, 64, 96), 8), 4: ((16, 32, 64), 4)}  # by how much it halves -> channels, latent channels
MEASURED = 512  # held-out pictures
CROP = 64  # pixels: eight crops of different pictures teach more than two whole pictures, at the same cost


def build(factor: int = 8) -> AutoencoderKL:
    """A fresh autoencoder whose posterior starts narrow (standard deviation 0.1): 128x128x3 pictures to 16x16x8
    latents (`factor` 8, 1.7 M parameters) or to 32x32x4 (`factor` 4, 0.6 M).

    With the usual start of 1 the noise hides what a latent channel has only begun to tell: colour comes last.
    """
    channels, latent_channels = LAYOUTS[factor]
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=latent_channels,
        sample_size=128,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        act_fn="silu",
        scaling_factor=1.0,  # `standardise` folds it into the weights
    )
    narrow_posterior(model)
    return model


@torch.no_grad()
def narrow_posterior(model: AutoencoderKL) -> None:
    """Make the second half of the moments, the log variance, -4.6 everywhere."""
    channels = model.config.latent_channels
    model.quant_conv.weight[channels:] = 0
    model.quant_conv.bias[channels:] = -4.6


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 on pixels, on their differences (edges count twice), on halved pictures, and on opponent colours.

    Without the last two a short training learns brightness only: small objects keep their shape and lose their colour.
    """
    across = F.l1_loss(output[..., 1:] - output[..., :-1], target[..., 1:] - target[..., :-1])
    down = F.l1_loss(output[..., 1:, :] - output[..., :-1, :], target[..., 1:, :] - target[..., :-1, :])
    value = F.l1_loss(output, target) + 0.5 * (across + down) + F.mse_loss(output, target)
    for scale in (2, 4, 8):
        small, wanted = F.avg_pool2d(output, scale), F.avg_pool2d(target, scale)
        value = (
            value + 0.5 * F.l1_loss(small, wanted) + F.l1_loss(opponent_colours(small), opponent_colours(wanted))
        )
    return value


def opponent_colours(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) -> red minus green and yellow minus blue, (N, 2, H, W)."""
    red, green, blue = pixels.unbind(1)
    return torch.stack([red - green, (red + green) / 2 - blue], dim=1)


@torch.no_grad()
def standardise(model: AutoencoderKL, held: Tensor) -> None:
    """Give every latent channel mean 0 and variance 1 by folding both into the two 1x1 convolutions around it.

    Pictures do not change. A channel of small variance would drown in the diffusion model's noise before the others.
    """
    latents = torch.cat([model.encode(batch).latent_dist.mean for batch in held.split(32)])  # (N, C, h, w)
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))  # (C,)
    channels = len(std)
    before, after = model.quant_conv, model.post_quant_conv
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += (after.weight * mean[None, :, None, None]).sum(dim=(1, 2, 3))
    after.weight *= std[None, :, None, None]


@torch.no_grad()
def reconstructed(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures after encoder and decoder, in about [-1, 1]."""
    return torch.cat([model.decode(model.encode(batch).latent_dist.mean).sample for batch in pixels.split(32)])


def psnr(model: AutoencoderKL, held: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB."""
    pairs = zip(to_images(held), to_images(reconstructed(model, held)), strict=True)
    return float(np.mean([metrics.psnr(*pair) for pair in pairs]))


def draw_places(count: int, side: int, generator: torch.Generator, crops: int) -> dict[str, Tensor]:
    """Which of `count` pictures of `side` pixels are cropped, and where: `crops` rows of index, left and top."""
    index = torch.randint(count, (crops,), generator=generator).sort().values
    left, top = torch.randint(0, side - CROP + 1, (2, crops), generator=generator) // 8 * 8
    return {"index": index, "left": left, "top": top}


def crop(data: np.ndarray, index: Tensor, left: Tensor, top: Tensor) -> np.ndarray:
    """Squares of `CROP` pixels, (n, CROP, CROP, 3) uint8."""
    rows = zip(index.tolist(), left.tolist(), top.tolist(), strict=True)
    return np.stack([data[i][y : y + CROP, x : x + CROP] for i, x, y in rows])


def rescaled(latents: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the time latents and pictures, both made smaller by one factor: the decoder then wants latents that
    behave as pictures do, which a diffusion model finds easier (EQ-VAE, Kouzelis et al. 2025).

    Random state: torch's global generator.
    """
    if torch.rand(()) < 0.5:
        return latents, pixels
    factor = (0.5, 0.75)[int(torch.randint(2, ()))]
    return tuple(F.interpolate(t, scale_factor=factor, mode="bilinear", antialias=True) for t in (latents, pixels))


def main() -> None:
    budget = read_budget(
        "vae", __doc__.splitlines()[0], steps=100_000, minutes=90, batch_size=8, scenes=48_000,
        options={
            "factor": {"type": int, "choices": sorted(LAYOUTS), "default": 8, "help": "latents are smaller by this"},
            "rescale": {"action": "store_true", "help": "rescale latents and pictures together in training"},
            "decoder": {"action": "store_true", "help": "train the decoder alone: the diffusion model stays valid"},
        },
    )  # fmt: skip
    device, factor = budget.device, budget.options["factor"]
    data = recipe.drawn(budget.scenes, first=budget.seed * budget.scenes)
    held = to_pixels(recipe.drawn(MEASURED, first=HELD_OUT)).to(device)
    model = recipe.start(budget, build(factor))
    for part in (model.encoder, model.quant_conv):
        part.requires_grad_(not budget.options["decoder"])
    shape = (model.config.latent_channels, CROP // factor, CROP // factor)

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        places = draw_places(len(data), data.shape[1], generator, budget.batch_size)
        return places | {"noise": torch.randn(budget.batch_size, *shape, generator=generator)}

    def loss(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pixels = to_pixels(crop(data, batch["index"], batch["left"], batch["top"])).to(device)
        posterior = model.encode(pixels).latent_dist
        latents, target = posterior.mean + posterior.std * batch["noise"].to(device), pixels
        if budget.options["rescale"]:
            latents, target = rescaled(latents, target)
        output = model.decode(latents).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        distance = reconstruction_loss(output.float(), target)
        return {"loss": distance + 1e-6 * kl, "distance": distance, "kl": kl}

    def sheet(model: AutoencoderKL) -> Image.Image:
        pixels = held[:40]
        print(f"vae: {psnr(model, held[:64]):.2f} dB on 64 held-out pictures", flush=True)
        pairs = zip(to_images(pixels), to_images(reconstructed(model, pixels)), strict=True)
        return figures.sheet([image for pair in pairs for image in pair], 10, gap=2)

    pace = 0.5 if budget.init else 1.0
    trained = recipe.train(
        budget, model, draw, loss, lr=5e-4 * pace, muon_lr=1e-3 * pace, weight_decay=0.0, ema=0.998, sheet=sheet
    )
    if not budget.options["decoder"]:
        standardise(model, held)
    recipe.save_half(model, budget.out)
    recipe.write_metrics(budget, model, trained, {"psnr_db": round(psnr(model, held), 2)})


if __name__ == "__main__":
    recipe.run(main)
