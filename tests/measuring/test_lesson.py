"""Tests of studylib.measuring.lesson: the same subject for every method, and what a notebook records of it."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_pipelines import frozen_sd, pictures

from studylib.learning.training import History
from studylib.learning.weights import named_weights, swapped
from studylib.measuring.encoders import Encoders
from studylib.measuring.lesson import Lesson, close_lesson
from studylib.measuring.subject import means
from studylib.measuring.views import Views
from studylib.world.subjects import CONTEXTS


@pytest.fixture(scope="module")
def lesson():
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "count": 2, "contexts": CONTEXTS[:2]}
    return Lesson.prepare(frozen_sd(), pictures(), "a sks cat", "a cat", 3, Encoders(), **options)


def louder(lesson):
    """The denoiser with larger weights inside the block."""
    weights = named_weights(lesson.pipe, ["unet"])
    return swapped(lesson.pipe, {name: 1.1 * weight for name, weight in weights.items()})


def test_views_are_drawn_inside_what_was_learned(lesson):
    """Nothing learned draws the untouched views again; something learned other ones, and it is measured."""
    same, other = lesson.views(nullcontext()), lesson.views(louder(lesson))
    pairs = zip(same.in_contexts, lesson.untouched.in_contexts, other.in_contexts, strict=True)
    assert all(a.tobytes() == b.tobytes() != c.tobytes() for a, b, c in pairs)
    assert lesson.measure(same) == lesson.measure(lesson.untouched) != lesson.measure(other)
    assert set(lesson.measure(same)["DINO"]) == {context.words for context in CONTEXTS[:2]}


def test_drift_is_zero_where_nothing_was_learned(lesson):
    """One number for each picture of the class, from fixed noise."""
    assert lesson.drift(nullcontext()) == {"0": 0.0, "1": 0.0}
    assert min(lesson.drift(louder(lesson)).values()) > 0


def test_other_words_are_the_same_lesson(lesson):
    """Ablations change identifier or noun: photos, noise and the untouched pictures stay, and are not drawn again."""
    other = replace(lesson, subject="a red car")
    assert other.untouched is lesson.untouched
    assert other.views(nullcontext()).of_class[0].tobytes() == lesson.untouched.of_class[0].tobytes()
    assert other.views(nullcontext()).of_subject[0].tobytes() != lesson.untouched.of_subject[0].tobytes()


def measured_views() -> tuple[Views, dict]:
    views = Views(pictures(1, 2), pictures(2, 2), pictures(3, 8), CONTEXTS)
    return views, {"DINO": {"a": 0.25, "b": 0.75}, "PRES": {"0": 0.1}, "DIV": {"0": 1.0}}


def test_a_training_is_recorded_with_its_cost():
    """What `record` keeps is what the table of methods is made of."""
    views, measured = measured_views()
    history = History([{"step": 1, "loss": 1.0, "seconds": 3.0}], parameters=2000, memory_mib=7.0)
    closing = close_lesson(views, measured, drift={"0": 0.25, "1": 0.0}, history=history, file_bytes=9000)
    assert closing.row == {
        "DINO": 0.5, "PRES": 0.1, "drift": 0.125, "parameters (k)": 2.0, "file (kB)": 9.0, "training (s)": 3.0,
        "memory (MiB)": 7.0,
    }  # fmt: skip
    assert set(closing.metrics) == {f"lesson: {name}" for name in closing.row}
    assert closing.figures["lesson"].size == (6 * 16, 16) and "9.000" in repr(closing)


def test_a_method_without_training_closes_as_well():
    """Adapters that ship trained, and methods that train nothing, have no history, file or drift of their own."""
    views, measured = measured_views()
    closing = close_lesson(views, measured)
    assert closing.row == {"DINO": means(measured)["DINO"], "PRES": means(measured)["PRES"]}
    assert "this run" in closing._repr_html_() and set(closing.figures) == {"lesson"}


def test_views_that_do_not_fill_the_picture_are_refused():
    """An index error in the last cell, after minutes of training, would say nothing."""
    views, measured = measured_views()
    for fewer in (replace(views, of_subject=[]), replace(views, in_contexts=views.in_contexts[:5])):
        with pytest.raises(ValueError, match="the bare subject and 6 contexts"):
            close_lesson(fewer, measured)


def test_random_state_is_left_alone(lesson):
    """A notebook's later draws must not depend on how many views were drawn before."""
    before = torch.random.get_rng_state()
    lesson.views(nullcontext())
    assert torch.equal(torch.random.get_rng_state(), before)
