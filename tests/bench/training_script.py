"""The loop that everyone's DreamBooth and LoRA scripts run, to compare the papers' trainings with.

Both train the tiny world's denoiser with prior preservation, batches of 2 and 2, from the same pictures, in turns. The
script's loop encodes pictures and prompts at every step, as it does by default; with what the two encoders take left
out, the loops themselves are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from PIL import Image
from torch.utils.data import DataLoader

from studylib.learning.training import History
from studylib.measuring.views import draw_pictures
from studylib.models.load import load
from studylib.world.subjects import SUBJECTS, training_pictures

STEPS, ROUNDS, BATCH, RANK = 30, 5, 2, 8
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
SETTINGS = {"max_train_steps": STEPS + 2, "learning_rate": 1e-8, "train_batch_size": BATCH}  # for a paper's config
Pictures = Sequence[Image.Image]
Train = Callable[[Any, Pictures, Pictures], History]


def script_loop(pipe: Any, photos: Pictures, class_pictures: Pictures, *, cached: bool, lora: bool) -> float:
    """Seconds of STEPS steps of the usual script; `cached` leaves the frozen encoders out of the loop."""
    accelerator = Accelerator(cpu=pipe.unet.device.type == "cpu")
    pipe.unet.requires_grad_(not lora).train()
    if lora:
        pipe.unet.add_adapter(
            LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=PROJECTIONS)
        )
    trained = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-8, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pixels = [pipe.image_processor.preprocess(p, height=size, width=size)[0] for p in [*photos, *class_pictures]]
    pairs = [(pixels[i % len(photos)], pixels[len(photos) + i]) for i in range(len(class_pictures))]
    loader = DataLoader(pairs, BATCH, shuffle=True)
    schedule = get_scheduler("constant", optimiser)
    unet, optimiser, loader, schedule = accelerator.prepare(pipe.unet, optimiser, loader, schedule)
    ids = pipe.tokenizer(["a sks cat"] * BATCH + ["a cat"] * BATCH, padding="max_length", return_tensors="pt",
                         max_length=pipe.tokenizer.model_max_length, truncation=True).input_ids
    with torch.no_grad():
        kept = pipe.text_encoder(ids)[0]
        stored = pipe.vae.encode(torch.cat([pixels[0][None]] * 2 * BATCH)).latent_dist
    start, done = 0.0, 0
    while done < STEPS + 2:
        for instance, prior in loader:
            if done == 2:  # the first two steps allocate
                start = time.perf_counter()
            with accelerator.accumulate(unet):
                with torch.no_grad():
                    latents = (stored if cached else pipe.vae.encode(torch.cat([instance, prior])).latent_dist).sample()
                    latents = latents * pipe.vae.config.scaling_factor
                    embeds = kept if cached else pipe.text_encoder(ids)[0]
                noise = torch.randn_like(latents)
                steps = torch.randint(0, 1000, (len(latents),))
                prediction = unet(pipe.scheduler.add_noise(latents, noise, steps), steps, embeds).sample
                (own, other), (target, prior_target) = prediction.chunk(2), noise.chunk(2)
                loss = F.mse_loss(own, target) + F.mse_loss(other, prior_target)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
            done += 1
            if done == STEPS + 2:
                break
    seconds = time.perf_counter() - start
    if lora:
        pipe.unet.unload_lora()  # peft's layers would stay under a mere deletion
    pipe.unet.requires_grad_(False).eval()
    return seconds


def own_loop(train: Train, pipe: Any, photos: Pictures, class_pictures: Pictures) -> float:
    """Seconds of as many steps of a paper's `train`, encoding once included in the first two."""
    rows = train(pipe, photos, class_pictures).rows
    return rows[-1]["seconds"] - rows[1]["seconds"]


def compare(what: str, train: Train, *, lora: bool) -> None:
    """Print how many steps per second a paper's training with `SETTINGS` takes over the script's, in turns."""
    pipe = load("tiny")
    photos = training_pictures(SUBJECTS["cat"], 4)
    class_pictures = draw_pictures(pipe, ["a cat"] * 8, range(8), num_inference_steps=2)
    ratios, ratios_cached = [], []
    for _ in range(ROUNDS):
        own = own_loop(train, pipe, photos, class_pictures)
        script, cached = (script_loop(pipe, photos, class_pictures, cached=c, lora=lora) for c in (False, True))
        ratios.append(script / own)
        ratios_cached.append(cached / own)
        rates = ", ".join(f"{STEPS / seconds:.1f}" for seconds in (own, script, cached))
        print(f"{what}: steps/s of fit, the script, the script without its encoders: {rates}")
    for name, found in (("script", ratios), ("script without its encoders", ratios_cached)):
        print(f"{what}: steps per second over the {name}: {statistics.median(found):.2f} (goal: not below 1)")
