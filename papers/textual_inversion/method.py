"""Textual Inversion (Gal et al., ICLR 2023, arXiv 2208.01618): a subject becomes one new word of a frozen model.

The word is a vector v in the text encoder's token table. It is found by the model's own training loss on a few
pictures; the denoiser, the text encoder and every other word stay as they are.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

from papers.textual_inversion.templates import TEMPLATES
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.forward import forward_wrapped
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import denoising_errors, noised
from studylib.evidence.knobs import Config, knob
from studylib.learning.identity import identity_of
from studylib.learning.training import Batch, Draw, History, Loss, TrainingConfig, fit
from studylib.learning.weights import check_trainable, frozen_model
from studylib.models.words import fault_of


@dataclass(frozen=True)
class TextualInversionConfig(Config):
    """The knobs under the names of the diffusers script and, where it has none, of the official code.

    `initializer_token` "" starts from a random vector. `norm_target` 0 lets the vectors' norm go where it will.
    """

    placeholder_token: str = "<cat>"
    initializer_token: str = "cat"
    num_vectors: int = knob(1, 1, 32)
    learnable_property: str = knob("object", choices=tuple(TEMPLATES))
    max_train_steps: int = knob(150, 1, 20_000)
    learning_rate: float = knob(5e-3, 1e-8, 10.0)
    scale_lr: bool = True
    train_batch_size: int = knob(4, 1, 64)
    gradient_accumulation_steps: int = knob(1, 1, 64)
    embedding_reg_weight: float = knob(0.0, 0.0, 1e4)
    norm_target: float = knob(0.0, 0.0, 100.0)
    flip_p: float = knob(0.5, 0.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.placeholder_token or self.placeholder_token.split() != [self.placeholder_token]:
            raise ValueError(f"placeholder_token is one word without spaces, not {self.placeholder_token!r}")
        for sentence in itertools.chain(*TEMPLATES.values()):
            if self.placeholder_token in sentence.replace("{}", ""):
                raise ValueError(f"placeholder_token {self.placeholder_token!r} is in the sentence {sentence!r}")

    @property
    def effective_learning_rate(self) -> float:
        """What the optimiser gets: with `scale_lr` the base rate times the samples in a step, else the base rate."""
        samples = self.train_batch_size * self.gradient_accumulation_steps
        return self.learning_rate * (samples if self.scale_lr else 1)

    @property
    def subject(self) -> str:
        """The subject in words: "a <cat>"."""
        return f"a {self.placeholder_token}"


@dataclass
class Word:
    """A learned word: its vectors (N, D) after every step, the initial word's copies first, (steps + 1, N, D)."""

    token: str
    trace: Tensor
    history: History

    @property
    def vectors(self) -> Tensor:
        """What was learned, (N, D)."""
        return self.trace[-1]

    @property
    def initial(self) -> Tensor:
        """What it started from, (N, D)."""
        return self.trace[0]

    def save(self, folder: str | Path) -> Path:
        """Write the file that diffusers' `load_textual_inversion` reads into `folder`, and return its path."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / "learned_embeds.safetensors"
        save_file({self.token: self.vectors.contiguous().cpu()}, path)
        return path


def token_names(token: str, count: int) -> list[str]:
    """The tokens of a word of `count` vectors, named as diffusers names them: <cat>, <cat>_1, ..."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def word_vector(pipe: Any, word: str) -> Tensor:
    """The token table's row of a word, (D,). Raises ValueError for a word that is not a single token."""
    ids = pipe.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        pieces = ", ".join(pipe.tokenizer.convert_ids_to_tokens(ids)) or "none"
        raise ValueError(f"the initial word must be a single token; {word!r} is {len(ids)}: {pieces}")
    return pipe.text_encoder.get_input_embeddings().weight[ids[0]].detach().clone()


def initial_vectors(pipe: Any, config: TextualInversionConfig) -> Tensor:
    """Copies of the initial word's vector, (N, D) float32; without a word, of one drawn like the table's rows."""
    if config.initializer_token:
        vector = word_vector(pipe, config.initializer_token).float()
    else:
        table = pipe.text_encoder.get_input_embeddings().weight.detach().float()  # (V, D)
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(table.shape[1], generator=generator).to(table)
        vector = table.mean(0) + table.std(0) * noise
    return vector.repeat(config.num_vectors, 1)  # (N, D)


@contextmanager
def new_word(pipe: Any, token: str, vectors: Tensor) -> Iterator[None]:
    """Inside the block the pipeline knows `token`, with these vectors (N, D); gradients flow back to them.

    The tokenizer is a copy that knows the new tokens, and the text encoder's table reads as if `vectors` stood below
    its last row: no weight is touched, so that after the block the pipeline is the very same. A prompt's "<cat>"
    becomes "<cat> <cat>_1 ..." by the pipeline's own `maybe_convert_prompt`.
    Raises ValueError for a token that a prompt may have used before, in whole or in part, or that the tokenizer would
    change, and for vectors that do not fit the table.
    """
    own, table = pipe.tokenizer, pipe.text_encoder.get_input_embeddings()
    names = token_names(token, len(vectors))
    if vectors.ndim != 2 or vectors.shape[1] != table.embedding_dim:
        raise ValueError(f"the text encoder has vectors (N, {table.embedding_dim}), not {tuple(vectors.shape)}")
    fault = fault_of(token, own.backend_tokenizer)
    if fault:
        raise ValueError(f"{fault}; choose another placeholder_token")
    extended = copy.deepcopy(own)
    extended.add_tokens(names)
    first = extended.convert_tokens_to_ids(names[0])  # the others follow

    def look_up(forward: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        new = (ids >= first) & (ids < first + len(vectors))  # (B, tokens)
        old_rows = forward(torch.where(new, 0, ids))  # (B, tokens, D)
        new_rows = F.embedding(torch.where(new, ids - first, 0), vectors.to(old_rows))  # (B, tokens, D)
        return torch.where(new[..., None], new_rows, old_rows)

    pipe.tokenizer = extended
    try:
        with forward_wrapped(table, look_up):
            yield
    finally:
        pipe.tokenizer = own


def draw_batches(pipe: Any, photos: LatentDistribution, templates: int, config: TextualInversionConfig) -> Draw:
    """Batches of the photos, whose second half are their mirror images, each with a template, noise and timestep."""
    count, denoiser = len(photos) // 2, Denoiser(pipe)

    def draw(generator: torch.Generator) -> Batch:
        size = config.train_batch_size
        index = torch.randint(count, (size,), generator=generator)
        mirrored = torch.rand(size, generator=generator) < config.flip_p
        batch = noised(denoiser, photos, index + count * mirrored, generator)
        return batch | {"templates": torch.randint(templates, (size,), generator=generator)}

    return draw


def inversion_loss(
    pipe: Any, vectors: Tensor, templates: Sequence[str], config: TextualInversionConfig
) -> Loss:
    """The model's own loss (the paper's equation 2) of a batch from `draw_batches`, inside `new_word`.

    With `embedding_reg_weight` the squared distance of the vectors to the initial word is added, their mean over N.
    """
    denoiser, initial = Denoiser(pipe), vectors.detach().clone()  # (N, D)

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        prompts = [templates[i].format(config.placeholder_token) for i in batch["templates"].tolist()]
        prompt = denoiser.prompt(prompts)  # B rows, through the whole text encoder
        errors = denoising_errors(denoiser, batch["latents"], prompt, batch["noise"], batch["timesteps"])  # (B,)
        distance = (vectors - initial).square().sum(dim=1).mean()
        return {"loss": errors.mean() + config.embedding_reg_weight * distance, "denoising": errors.mean()}

    return loss


def towards_norm(vectors: Tensor, target: float, learning_rate: float) -> None:
    """Move each vector's norm towards `target`, in place: by min(1, 100 lr) of what is missing (cloneofsimo/lora)."""
    norms = vectors.norm(dim=1, keepdim=True)  # (N, 1)
    vectors.mul_((norms + min(1.0, 100 * learning_rate) * (target - norms)) / norms)


def fitting_templates(pipe: Any, config: TextualInversionConfig) -> list[str]:
    """The templates that leave the whole word within the tokenizer's length; call inside `new_word`.

    Raises ValueError if none does.
    """
    last = pipe.tokenizer.convert_tokens_to_ids(token_names(config.placeholder_token, config.num_vectors)[-1])
    fitting = []
    for template in TEMPLATES[config.learnable_property]:
        prompt = pipe.maybe_convert_prompt(template.format(config.placeholder_token), pipe.tokenizer)
        ids = pipe.tokenizer(prompt, truncation=True, max_length=pipe.tokenizer.model_max_length).input_ids
        fitting += [template] * (last in ids)
    if not fitting:
        length = pipe.tokenizer.model_max_length
        raise ValueError(f"{config.num_vectors} vectors do not fit into prompts of {length} tokens; take fewer")
    return fitting


def encode_photos(pipe: Any, photos: Sequence[Image.Image]) -> LatentDistribution:
    """Photos, then their mirror images, encoded once."""
    return Denoiser(pipe).encode([*photos, *(ImageOps.mirror(photo) for photo in photos)])


def train(
    pipe: Any, photos: Sequence[Image.Image], config: TextualInversionConfig, *, label: str = "Textual Inversion",
    **options: Any,
) -> Word:
    """Learn a word from `photos` and leave `pipe` as it was; `options` go to `fit`, which keeps every step."""
    check_trainable(pipe)
    if getattr(pipe, "text_encoder_2", None) is not None:
        raise ValueError("a word is learned for one text encoder; this pipeline reads every word with two")
    latents = encode_photos(pipe, photos)
    vectors, rate = initial_vectors(pipe, config), config.effective_learning_rate
    steps, identity = range(config.max_train_steps + 1), identity_of(pipe, config, of_subject=latents)

    def after_step(step: int) -> None:
        if config.norm_target:
            towards_norm(vectors, config.norm_target, rate)

    settings = TrainingConfig(
        steps=config.max_train_steps, learning_rate=rate, max_grad_norm=0.0, seed=config.seed,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )
    with frozen_model(pipe), new_word(pipe, config.placeholder_token, vectors):
        templates = fitting_templates(pipe, config)
        history = fit(
            {"vectors": vectors}, draw_batches(pipe, latents, len(templates), config),
            inversion_loss(pipe, vectors, templates, config), settings, after_step=after_step,
            identity=identity, label=label, **options | {"keep": steps},
        )
    return Word(config.placeholder_token, torch.stack([history.snapshots[i]["vectors"] for i in steps]), history)
