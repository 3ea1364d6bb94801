"""The tiny world's CLIP: text and pictures in one space, as `CLIPModel`; its text tower serves the diffusion model.

Stands for OpenAI's CLIP. Bar: zero-shot attribute accuracy >= 95 % on held-out scenes.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from studylib.learning.processes import gathered
from studylib.measuring.pictures import to_pixels
from studylib.recipes import recipe
from studylib.recipes.budget import read_budget
from studylib.world.data import held_out, scene_number
from studylib.world.scene import COLOURS, PLACES, STYLES, THINGS, Scene, caption

CONTEXT = 32  # tokens
MEASURED = 512  # held-out scenes
RARE = ("sks", "zwx", "ohwx", "qvk", "xjy", "pllr")  # words of their own that no caption has
_WORD = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def train_tokenizer(captions: list[str], merges: int = 420) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's form (lower case, `</w>` ends a word). All 256 bytes are in it, inside and at the end
    of words, so that any text tokenises; `RARE` words are single tokens."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600 + merges, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator([*captions, *(word for word in RARE for _ in range(len(captions) // 4))], trainer)
    learned = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]][:merges]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(m) for m in learned)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocab, rules = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        rules.write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in learned) + "\n")
        return CLIPTokenizer(str(vocab), str(rules), model_max_length=CONTEXT)


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A fresh CLIP, about 1.3 M parameters."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "projection_dim": 128,
        **special,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 128,
        "patch_size": 16,
        "projection_dim": 128,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(N, 32) token ids, padded as Stable Diffusion pads."""
    return tokenizer(captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids


def swaps(scene: Scene) -> dict[str, list[str]]:
    """For each attribute the scene's full caption with this attribute set to every value it can have."""
    nouns = THINGS if scene.person is None else (scene.noun,)
    return {
        "noun": [caption(replace(scene, noun=v)) for v in nouns],
        "colour": [caption(replace(scene, colour=v)) for v in COLOURS],
        "style": [caption(replace(scene, style=v)) for v in STYLES],
        "place": [caption(replace(scene, place=v)) for v in PLACES],
    }


@torch.no_grad()
def attribute_accuracy(
    model: CLIPModel, tokenizer: CLIPTokenizer, scenes: list[Scene], pixels: Tensor
) -> dict[str, float]:
    """Share of scenes whose true caption scores highest among the swapped ones, by attribute (1 is perfect)."""
    features = torch.cat(
        [model.visual_projection(model.vision_model(batch).pooler_output) for batch in pixels.split(64)]
    )
    hits: dict[str, list[bool]] = {}
    for scene, feature in zip(scenes, F.normalize(features, dim=-1), strict=True):
        for attribute, captions in swaps(scene).items():
            if len(captions) > 1:
                ids = tokenize(tokenizer, captions).to(pixels.device)
                texts = F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=-1)
                hits.setdefault(attribute, []).append(captions[int((texts @ feature).argmax())] == caption(scene))
    return {attribute: round(sum(v) / len(v), 4) for attribute, v in hits.items()}


def main() -> None:
    budget = read_budget(
        "clip", __doc__.splitlines()[0], steps=4000, minutes=30, batch_size=192, scenes=48_000,
        options={"text": {"action": "store_true", "help": "with --init: train the text tower as well"}},
    )  # fmt: skip
    device, first = budget.device, budget.seed * budget.scenes
    data = recipe.drawn(budget.scenes, first=first)
    if budget.init:
        tokenizer = CLIPTokenizer.from_pretrained(budget.init)
    else:
        rng = random.Random(budget.seed)
        tokenizer = train_tokenizer([caption(scene_number(i), rng) for i in range(20_000)])
    model = recipe.start(budget, build(tokenizer))
    # with --init the text tower stays what the diffusion model knows
    model.text_model.requires_grad_(budget.init is None or budget.options["text"])

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(len(data), (budget.batch_size,), generator=generator).sort().values
        words = random.Random(int(torch.randint(1 << 31, (1,), generator=generator)))
        captions = [caption(scene_number(first + i), words) for i in index.tolist()]
        return {"index": index, "ids": tokenize(tokenizer, captions)}

    def loss(batch: Mapping[str, Tensor]) -> Tensor:
        pixels, ids = to_pixels(data[batch["index"].numpy()]).to(device), batch["ids"].to(device)
        images = model.visual_projection(model.vision_model(pixels).pooler_output)
        texts = model.text_projection(model.text_model(ids).pooler_output)
        images, texts = (gathered(F.normalize(f.float(), dim=-1)) for f in (images, texts))  # (N, D) each
        ids = gathered(ids)  # (N, 32)
        same = (ids[:, None] == ids[None]).all(-1).float()  # two scenes may have one caption: both are right
        return recipe.contrast(images, texts, 1 / model.logit_scale.exp().clamp(max=100), same)

    pace = 0.4 if budget.init else 1.0
    trained = recipe.train(
        budget, model, draw, loss, lr=1.5e-3 * pace, muon_lr=2e-3 * pace, weight_decay=0.05, ema=0.995
    )
    held = to_pixels(recipe.held_out_pictures(MEASURED)).to(device)
    accuracy = attribute_accuracy(model, tokenizer, held_out(MEASURED), held)
    recipe.save_half(model, budget.out)
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    images = CLIPImageProcessor(
        size={"shortest_edge": 128}, crop_size=128, image_mean=half["mean"], image_std=half["std"]
    )
    CLIPProcessor(images, tokenizer).save_pretrained(budget.out)
    mean = round(sum(accuracy.values()) / len(accuracy), 4)
    recipe.write_metrics(budget, model, trained, {"attribute_accuracy": mean, **accuracy})


if __name__ == "__main__":
    recipe.run(main)
