"""Tests of papers/textual_inversion: one word is learned, nothing else changes, and diffusers reads the file."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_pipelines import WIDTH, pictures, sdxl

from papers.textual_inversion import evaluation as ev
from papers.textual_inversion import exercises
from papers.textual_inversion.method import (
    TextualInversionConfig,
    Word,
    draw_batches,
    encode_photos,
    fitting_templates,
    initial_vectors,
    inversion_loss,
    new_word,
    token_names,
    towards_norm,
    train,
    word_vector,
)
from papers.textual_inversion.templates import TEMPLATES
from papers.textual_inversion.whole_table import train_whole_table
from studylib.denoisers.latents import LatentDistribution
from studylib.learning.training import History
from studylib.measuring.encoders import Encoders
from studylib.measuring.lesson import Lesson
from studylib.measuring.subject import prediction_drift
from studylib.models.load import load

SMALL = {
    "initializer_token": "c", "max_train_steps": 4, "learning_rate": 1e-2, "train_batch_size": 2,
    "learnable_property": "bare", "placeholder_token": "<x>",
}  # fmt: skip


def draw(pipe, prompt: str = "a c") -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, num_inference_steps=2, generator=generator, output_type="np").images[0]


def state(pipe) -> dict[str, torch.Tensor]:
    """Every weight and buffer of the pipeline, by name."""
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


def test_only_the_new_rows_change(pipe):
    """The paper's claim to fame, exactly: no weight, no other row, no tokenizer, during and after training."""
    before, tokenizer, vocabulary = state(pipe), pipe.tokenizer, dict(pipe.tokenizer.get_vocab())
    word = train(pipe, pictures(0), TextualInversionConfig(**SMALL, num_vectors=2))
    after = state(pipe)
    assert before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert pipe.tokenizer is tokenizer and tokenizer.get_vocab() == vocabulary
    assert "forward" not in pipe.text_encoder.get_input_embeddings().__dict__
    assert not any(weight.requires_grad for weight in pipe.text_encoder.parameters())
    assert word.history.parameters == 2 * WIDTH and word.trace.shape == (5, 2, WIDTH)
    assert all(not torch.equal(a, b) for a, b in zip(word.trace, word.trace[1:], strict=False))


def test_other_prompts_draw_the_very_same_pictures(pipe):
    """Inside the block as well: a prompt without the word must not notice it, one with it must."""
    plain = draw(pipe)
    with new_word(pipe, "<x>", 3 * torch.randn(3, WIDTH)):
        assert np.array_equal(draw(pipe), plain)
        assert not np.array_equal(draw(pipe, "a <x>"), plain)
    with pytest.raises(RuntimeError), new_word(pipe, "<x>", torch.randn(1, WIDTH)):
        raise RuntimeError
    assert np.array_equal(draw(pipe), plain)
    latents = encode_photos(pipe, pictures(1))
    assert bool((prediction_drift(pipe, new_word(pipe, "<x>", torch.randn(1, WIDTH)), latents, "a c") == 0).all())


def test_an_untrained_word_is_its_initial_word(pipe):
    """Off is identity: at step 0 the new word must draw what the initial word draws, bit for bit."""
    config = TextualInversionConfig(**SMALL)
    with new_word(pipe, "<x>", initial_vectors(pipe, config)):
        assert np.array_equal(draw(pipe, "a <x>"), draw(pipe, "a c"))


def test_gradients_reach_the_vectors_and_nothing_else(pipe):
    """The splice must carry the gradient of every position of the word, as a table row would."""
    vectors = torch.randn(2, WIDTH, requires_grad=True)
    with new_word(pipe, "<x>", vectors):
        pipe.encode_prompt(["a <x>", "<x>"], "cpu", 1, False)[0].square().sum().backward()
    assert vectors.grad.abs().sum(dim=1).min() > 0
    assert all(weight.grad is None for weight in pipe.text_encoder.parameters())


@pytest.mark.parametrize("count", [1, 2])
def test_equals_the_whole_table_with_rows_copied_back(pipe, count):
    """The diffusers script trains the whole table and restores it: the new rows must come out the same, with the same
    weight decay and the same batches. Without the copying every old row has moved."""
    config = TextualInversionConfig(**SMALL, num_vectors=count, gradient_accumulation_steps=2)
    ours = train(pipe, pictures(0), config)
    usual = train_whole_table(pipe, pictures(0), config)
    assert torch.allclose(ours.vectors, usual.vectors, atol=1e-5)
    assert not torch.allclose(ours.vectors, ours.initial, atol=1e-3)
    assert float(usual.moved.max()) == 0
    assert usual.parameters == ours.history.parameters + pipe.text_encoder.get_input_embeddings().weight.numel()
    assert float(train_whole_table(pipe, pictures(0), config, copy_back=False).moved.min()) > 0
    with pytest.raises(ValueError, match="norm_target"):
        train_whole_table(pipe, pictures(0), TextualInversionConfig(**SMALL, norm_target=1.0))


def test_equals_a_table_that_was_really_enlarged(pipe):
    """The spliced table must read as one with the rows below its last: same states for the same prompts."""
    vectors = torch.randn(3, WIDTH)
    prompts = ["a <x>", "<x> b <x>", "a c"]
    with new_word(pipe, "<x>", vectors):
        ours = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    twin = copy.deepcopy(pipe)
    twin.load_textual_inversion({"<x>": vectors})
    assert torch.equal(ours, twin.encode_prompt(prompts, "cpu", 1, False)[0])


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_reads_the_file_and_draws_the_same(pipe, tmp_path, count):
    """A saved word must work in anyone's pipeline, to the last bit, and be of the size that is reported."""
    word = train(pipe, pictures(0), TextualInversionConfig(**SMALL, num_vectors=count))
    with new_word(pipe, word.token, word.vectors):
        ours = draw(pipe, "a <x> b")
    path = word.save(tmp_path / "new")
    twin = copy.deepcopy(pipe)
    twin.load_textual_inversion(str(path.parent))
    assert np.array_equal(draw(twin, "a <x> b"), ours)
    assert path.name == "learned_embeds.safetensors" and path.stat().st_size < 4 * count * WIDTH + 200


def test_several_vectors_are_several_tokens(pipe):
    """A prompt's word must become all of its tokens in order, the rest moving to the right."""
    assert token_names("<x>", 3) == ["<x>", "<x>_1", "<x>_2"]
    with new_word(pipe, "<x>", torch.randn(3, WIDTH)):
        prompt = pipe.maybe_convert_prompt("a <x> b", pipe.tokenizer)
        ids = pipe.tokenizer(prompt).input_ids
        first = pipe.tokenizer.convert_tokens_to_ids("<x>")
    assert prompt == "a <x> <x>_1 <x>_2 b" and ids[2:5] == [first, first + 1, first + 2] and len(ids) == 7


def test_vectors_start_as_copies_and_part(pipe):
    """All start as the initial word; their positions differ, and so do their gradients from the first step on."""
    word = train(pipe, pictures(0), TextualInversionConfig(**SMALL, num_vectors=3))
    start = word_vector(pipe, "c")
    assert torch.equal(word.initial, start.repeat(3, 1))
    assert float(torch.pdist(word.trace[1]).min()) > 0


def test_initial_word_must_be_one_token(pipe):
    """The official code asserts it; a word of several tokens has no single vector, and the reader is told which."""
    with pytest.raises(ValueError, match="single token; 'cat' is 3: c, a, t</w>"):
        word_vector(pipe, "cat")
    random = initial_vectors(pipe, TextualInversionConfig(**SMALL | {"initializer_token": ""}, num_vectors=2))
    table = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(random[0], random[1]) and 0.5 < random[0].norm() / table.norm(dim=1).mean() < 2


def test_the_loss_is_the_models_own(pipe):
    """Mean squared error of the predicted noise under a template, and the pull beside it."""
    config = TextualInversionConfig(**SMALL, embedding_reg_weight=2.0, num_vectors=2)
    vectors, photos = initial_vectors(pipe, config), encode_photos(pipe, pictures(0))
    with new_word(pipe, "<x>", vectors), torch.no_grad():
        templates = fitting_templates(pipe, config)
        batch = draw_batches(pipe, photos, len(templates), config)(torch.Generator().manual_seed(0))
        loss = inversion_loss(pipe, vectors, templates, config)
        vectors += 0.5
        found = loss(batch)
        prompts = [templates[i].format("<x>") for i in batch["templates"]]
        embeds = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
        noised = pipe.scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
        plain = F.mse_loss(pipe.unet(noised, batch["timesteps"], embeds).sample, batch["noise"])
    assert float(found["denoising"]) == pytest.approx(float(plain), abs=1e-6)
    assert float(found["loss"] - found["denoising"]) == pytest.approx(2.0 * 0.25 * WIDTH, rel=1e-4)


def test_batches_mirror_and_mix(pipe):
    """Every photo, both ways round, under every template; at flip_p 0 none is mirrored."""
    encoded = encode_photos(pipe, pictures(0))
    photos = LatentDistribution(encoded.mean, 0 * encoded.std)  # so that a latent tells whose it is
    assert len(photos) == 6 and not torch.allclose(photos.mean[0], photos.mean[3], atol=1e-3)
    batches = {
        flip: draw_batches(pipe, photos, 6, TextualInversionConfig(**SMALL | {"train_batch_size": 64}, flip_p=flip))
        for flip in (0.0, 0.5)
    }
    seen = {}
    for flip, make in batches.items():
        batch = make(torch.Generator().manual_seed(0))
        distances = torch.cdist(batch["latents"].flatten(1), photos.mean.flatten(1))  # (64, 6)
        seen[flip] = set(distances.argmin(dim=1).tolist())
        assert len(set(batch["templates"].tolist())) == 6 and len(set(batch["timesteps"].tolist())) > 32
    assert seen[0.0] == {0, 1, 2} and seen[0.5] == set(range(6))


def test_pull_and_norm_prior_hold_the_word(pipe):
    """The pull keeps the word near its start, the prior keeps its norm; both must be felt."""
    free, pulled, normed = (
        train(pipe, pictures(0), TextualInversionConfig(**SMALL | {"max_train_steps": 12}, **knob))
        for knob in ({}, {"embedding_reg_weight": 100.0}, {"norm_target": 0.7})
    )
    assert (pulled.vectors - pulled.initial).norm() < 0.7 * (free.vectors - free.initial).norm()
    assert float(normed.vectors.norm()) == pytest.approx(0.7, rel=1e-3) and not np.isclose(free.vectors.norm(), 0.7)
    vectors = torch.tensor([[3.0, 4.0]])
    towards_norm(vectors, 1.0, 0.0025)  # a quarter of the way from 5 to 1
    assert torch.allclose(vectors, torch.tensor([[2.4, 3.2]]))


def test_learning_rate_is_scaled_by_the_samples_of_a_step(pipe):
    """0.005 is the base: the optimiser must get it times the batch, and the base alone without scale_lr."""
    scaled = TextualInversionConfig(learning_rate=5e-3, train_batch_size=4, gradient_accumulation_steps=2)
    assert scaled.effective_learning_rate == pytest.approx(0.04)
    for scale, rate in ((False, 1e-2), (True, 2e-2)):
        history = train(pipe, pictures(0), TextualInversionConfig(**SMALL, scale_lr=scale)).history
        assert history.column("learning_rate") == pytest.approx([rate] * 4)


@pytest.mark.parametrize("wrong", [
    {"num_vectors": 0}, {"learning_rate": float("nan")}, {"flip_p": 1.5}, {"max_train_steps": True},
    {"learnable_property": "mood"}, {"placeholder_token": "two words"}, {"placeholder_token": "icture"},
    {"embedding_reg_weight": -1.0},
])  # fmt: skip
def test_config_refuses_what_is_out_of_range(wrong):
    """Before a training, not after."""
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        TextualInversionConfig(**wrong)


def test_words_that_cannot_be_added_are_refused(pipe):
    """A token that is known would silently keep its old row; vectors of another width would fail far away."""
    with pytest.raises(ValueError, match="knows 'c</w>' already"), new_word(pipe, "c</w>", torch.randn(1, WIDTH)):
        pass
    with pytest.raises(ValueError, match=r"\(N, 32\), not \(1, 7\)"), new_word(pipe, "<x>", torch.randn(1, 7)):
        pass
    with new_word(pipe, "<x>", torch.randn(30, WIDTH)), pytest.raises(ValueError, match="30 vectors do not fit"):
        fitting_templates(pipe, TextualInversionConfig(**SMALL, num_vectors=30))
    with pytest.raises(ValueError, match="one text encoder"):
        train(sdxl(), pictures(0), TextualInversionConfig(**SMALL))


def test_words_beside_each_other_do_not_swallow_each_other(pipe):
    """The tokenizer cuts added words out of a text first, and diffusers replaces their letters: "<x>y" lost its <x>."""
    with new_word(pipe, "<x>", torch.randn(2, WIDTH)):
        for word in ("<x>y", "<x>_1", "x>", "<X>"):
            refused = pytest.raises(ValueError, match="choose another placeholder_token")
            with refused, new_word(pipe, word, torch.randn(1, WIDTH)):
                pass
        with new_word(pipe, "<y>", torch.randn(2, WIDTH)):
            prompt = pipe.maybe_convert_prompt("<y> <x>", pipe.tokenizer)
    assert prompt == "<y> <y>_1 <x> <x>_1"


def test_templates_name_the_word_once_and_say_nothing_of_it():
    """Each is a neutral sentence with one gap; SD's tokenizer (77) leaves room for many vectors."""
    for sentences in TEMPLATES.values():
        assert len(set(sentences)) == len(sentences) >= 4
        assert all(sentence.count("{}") == 1 and len(sentence.split()) < 12 for sentence in sentences)


def word_of(trace: torch.Tensor) -> Word:
    """A word with these vectors after each step, (steps, N, D)."""
    return Word("<x>", trace, History())


def test_word_views_are_the_common_views(pipe):
    """The untouched pictures of the class are taken over instead of drawn again: both must be the same set."""
    word = word_of(2 * torch.randn(1, 2, WIDTH))
    sampling = {"num_inference_steps": 2, "guidance_scale": 3.0, "count": 2}
    untouched = Lesson.prepare(pipe, pictures(), "a c", "a c", 3, Encoders(), **sampling)
    lesson = replace(untouched, subject="a <x>")
    common, ours = lesson.views(new_word(pipe, "<x>", word.vectors)), ev.word_views(lesson, word)
    assert ours.of_class == lesson.untouched.of_class
    for mine, theirs in zip(ours.of_subject + ours.in_contexts, common.of_subject + common.in_contexts, strict=True):
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1


def test_nearest_words_and_trace(pipe):
    """A word's own row is its nearest word with cosine 1, whatever its norm."""
    found = ev.nearest_words(pipe, 5 * word_vector(pipe, "q"))
    assert next(iter(found)) == "q" and next(iter(found.values())) == pytest.approx(1, abs=1e-5) and len(found) == 3
    word = train(pipe, pictures(0), TextualInversionConfig(**SMALL))
    text = ev.describe_trace(pipe, word, [0, 4])
    assert text.splitlines()[0].startswith("step    0") and "c 1.00" in text and len(text.splitlines()) == 2
    assert torch.equal(ev.reshaped(word, 4), word.vectors)
    assert torch.allclose(ev.reshaped(word, 4, 0.0, 2.0), 2 * word.initial)


def test_the_error_curve_sees_the_word(pipe):
    """The measure must be repeatable, one number a photo, and differ between words."""
    vector = torch.randn(1, WIDTH)
    word = word_of(torch.stack([vector, vector, -vector]))
    one, again, other = ev.error_curve(pipe, encode_photos(pipe, pictures(0)), word, [0, 1, 2])
    assert one.shape == (6,) and torch.equal(one, again) and not torch.allclose(one, other, atol=1e-6)


def test_training_lowers_the_loss_on_the_tiny_world():
    """Not only numbers that move: thirty steps must make the pictures more probable under the real tiny model."""
    from studylib.learning.photos import subject_photos

    tiny = load("tiny", device="cpu", dtype=torch.float32)
    photos = subject_photos("", "cat", 3, 128)
    word = train(tiny, photos, TextualInversionConfig(learnable_property="bare", max_train_steps=30))
    start, end = ev.error_curve(tiny, encode_photos(tiny, photos), word, [0, 30])
    assert (end < start).all()
    assert word.vectors.shape == (1, 128)


def test_style_pictures_share_the_style_alone():
    """Learned and new things are different nouns; the likeness must tell the style apart from another one."""
    assert not {noun for noun, _, _ in ev.SHOWN} & {noun for noun, _, _ in ev.NEW}
    true, other = (ev.style_pictures(style, ev.NEW, 128) for style in ("watercolor", "flat"))
    same, different = (ev.style_likeness(images, true) for images in (true, other))
    assert min(same.values()) > 0.999 and all(different[noun] < same[noun] for noun in same)


def test_counts_of_stable_diffusion():
    """One word of SD 1.5 is 768 of its text encoder's 123 million numbers."""
    assert ev.sd15_counts() == [768, 49408 * 768, 123_060_480] and ev.sd15_counts(4)[0] == 4 * 768


def test_maps_follow_the_tokens(pipe):
    """One map for each token of the prompt, of the denoiser's finest size, and the word's own among them."""
    with new_word(pipe, "<x>", torch.randn(2, WIDTH)):
        image, maps = ev.word_maps(pipe, "a <x> b", 0, num_inference_steps=2, guidance_scale=3.0)
    assert [name.split()[1] for name in maps][:4] == ["a", "<x>", "<x>_1", "b"]
    assert all(m.shape == (8, 8) and bool((m >= 0).all()) for m in maps.values()) and image.size == (16, 16)


def solved_rate(base, batch, accumulation, processes, scale):
    return base * batch * accumulation * processes if scale else base


def solved_expand(prompt, token, count):
    return prompt.replace(token, " ".join([token, *(f"{token}_{i}" for i in range(1, count))]))


def solved_blend(v, w, share):
    mixed = (1 - share) * v + share * w
    return mixed / mixed.norm() * ((1 - share) * v.norm() + share * w.norm())


RIGHT = {
    exercises.check_rate: solved_rate, exercises.check_expand: solved_expand, exercises.check_blend: solved_blend,
}  # fmt: skip


@pytest.mark.parametrize("check", RIGHT, ids=lambda check: check.__name__)
def test_right_answers_pass(check, capsys):
    """A checker that refuses the folded solution would be worse than none."""
    check(RIGHT[check])
    assert "right" in capsys.readouterr().out


@pytest.mark.parametrize(("check", "wrong", "said"), [
    (exercises.check_rate, lambda base, *rest: base, "scale_lr multiplies"),
    (exercises.check_rate, lambda base, b, a, p, s: base * b * p if s else base, "that are accumulated"),
    (exercises.check_rate, lambda base, b, a, p, s: base * b * a if s else base, "every process"),
    (exercises.check_rate, lambda base, b, a, p, s: base / (b * a * p) if s else base, "not smaller"),
    (exercises.check_rate, lambda base, b, a, p, s: base * b * a * p, "used as it stands"),
    (exercises.check_rate, lambda *given: None, "return a number"),
    (exercises.check_expand, lambda prompt, token, count: prompt, "sought 3 tokens"),
    (exercises.check_expand, lambda p, t, n: p.replace(t, " ".join([t] * n)), "sought 'a <cat> <cat>_1"),
    (exercises.check_expand, lambda p, t, n: p.replace(t, " ".join(f"{t}_{i}" for i in range(n))), "bare name"),
    (exercises.check_expand, lambda p, t, n: solved_expand(p, t, n + 1), "one token too many"),
    (exercises.check_expand, lambda p, t, n: p.replace(t, solved_expand(t, t, n), 1), "sought 4 tokens"),
    (exercises.check_blend, lambda v, w, share: (1 - share) * v + share * w, "shorten"),
    (exercises.check_blend, lambda v, w, share: v, "the direction"),
    (exercises.check_blend, lambda v, w, share: solved_blend(w, v, share), "share 0 is v"),
    (exercises.check_blend, lambda v, w, share: share, "return a vector"),
])  # fmt: skip
def test_wrong_answers_are_told_why(check, wrong, said):
    """Each typical mistake must fail, with words that help."""
    with pytest.raises(AssertionError, match=said):
        check(wrong)


def test_expansion_is_what_diffusers_does(pipe):
    """Exercise B's right answer must be the pipeline's own."""
    with new_word(pipe, "<x>", torch.randn(3, WIDTH)):
        for prompt in ("a <x> b", "<x>, <x>", "a c"):
            assert pipe.maybe_convert_prompt(prompt, pipe.tokenizer) == solved_expand(prompt, "<x>", 3)
