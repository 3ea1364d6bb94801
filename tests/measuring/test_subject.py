"""Tests of views and their measures: methods are compared picture by picture, and the subject is told apart."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_pipelines import frozen_sd, pictures

from studylib.denoisers.denoiser import Denoiser
from studylib.measuring.encoders import Encoders
from studylib.measuring.metrics import pixel_gap
from studylib.measuring.subject import (
    clip_likeness,
    difference,
    judged_as_asked,
    likeness,
    means,
    measure_views,
    photo_errors,
    prediction_drift,
    spread,
    views_table,
)
from studylib.measuring.views import Views, draw_pictures, draw_views
from studylib.world.subjects import CONTEXTS, SUBJECTS, subject_in, training_pictures

QUICK = {"num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def pipe():
    return frozen_sd()


@contextmanager
def moved(pipe, part="unet", by=0.05):
    """One part of the pipeline with other weights."""
    weights = dict(getattr(pipe, part).named_parameters())
    before = {name: weight.clone() for name, weight in weights.items()}
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(by)
        yield
        for name, weight in weights.items():
            weight.copy_(before[name])


def test_a_picture_has_its_own_noise_whatever_the_batches(pipe):
    """Repeatable, and equal when drawn beside others: sets may be drawn in pieces."""
    one = draw_pictures(pipe, ["a cat"] * 3, [5, 6, 7], batch_size=2, **QUICK)
    two = draw_pictures(pipe, ["a cat"] * 3, [5, 6, 7], batch_size=3, **QUICK)
    gaps = [np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in zip(one, two, strict=True)]
    assert len(one) == 3 and max(gaps) <= 1 and one[0].tobytes() != one[1].tobytes()


def test_views_share_their_noise_between_models(pipe):
    """Without a change all views must be equal, with one the picture of the same noise differs."""
    plain, again = (draw_views(pipe, "a sks cat", "a cat", 0, count=2, contexts=CONTEXTS[:1], **QUICK) for _ in "ab")
    with moved(pipe):
        other = draw_views(pipe, "a sks cat", "a cat", 0, count=2, contexts=CONTEXTS[:1], **QUICK)
    assert [len(plain.of_class), len(plain.of_subject), len(plain.in_contexts)] == [2, 2, 1]
    for a, b, c in zip(plain.of_subject, again.of_subject, other.of_subject, strict=True):
        assert a.tobytes() == b.tobytes() != c.tobytes()
    assert plain.of_class[0].tobytes() != plain.of_class[1].tobytes()


def test_known_pictures_of_the_class_are_not_drawn_again(pipe):
    """A method that cannot change the class saves their minutes; all else starts from the same noise as before."""
    known = pictures(count=2)
    whole = draw_views(pipe, "a sks cat", "a cat", 0, count=2, contexts=CONTEXTS[:1], **QUICK)
    rest = draw_views(pipe, "a sks cat", "a cat", 0, count=2, contexts=CONTEXTS[:1], of_class=known, **QUICK)
    assert rest.of_class == known and len(rest.in_contexts) == 1
    assert pixel_gap(rest.of_subject + rest.in_contexts, whole.of_subject + whole.in_contexts) <= 1


def test_likeness_is_one_for_the_subject_itself_and_low_for_another():
    """The measures must tell the subject from its class before they can tell methods apart."""
    photos = training_pictures(SUBJECTS["cat"], 4)
    others = training_pictures(replace(SUBJECTS["cat"], colour="gray", accent="red", pattern="band"), 4)
    for measure in (likeness, clip_likeness):
        assert measure(photos[:1], photos[:1]).item() == pytest.approx(1, abs=1e-5)
        assert measure(photos, photos).mean() > measure(others, photos).mean() + 0.1


def test_true_pictures_of_the_contexts_agree_with_their_prompts():
    """The upper bound of every method: the subject really drawn in each context, judged, by CLIP and by DINO."""
    photos = training_pictures(SUBJECTS["cat"], 4)
    true = [subject_in(SUBJECTS["cat"], context) for context in CONTEXTS]
    right, shifted = (
        measure_views(Views(photos[:2], photos, images), photos, "a cat") for images in (true, [true[-1], *true[:-1]])
    )
    assert np.mean(judged_as_asked(Views([], [], true), "cat")) > 0.9 > means(shifted)["judged"]
    assert means(right)["CLIP-T"] > means(shifted)["CLIP-T"] + 0.1
    assert means(right)["DINO"] == pytest.approx(means(shifted)["DINO"], abs=1e-4)  # the same pictures elsewhere
    assert set(difference(right["judged"], shifted["judged"])) == {context.words for context in CONTEXTS}
    clip = difference(right["CLIP-T"], shifted["CLIP-T"]).values()
    assert min(clip) < max(clip)


def test_spread_is_zero_for_copies():
    """Diversity counts other pictures only: copies have none, different pictures have some."""
    photos = training_pictures(SUBJECTS["boat"], 3)
    assert spread([photos[0]] * 3).abs().max() < 1e-5 < spread(photos).min()


def test_table_holds_measured_rows_and_plain_ones():
    """The paper's own figures stand beside what was measured here."""
    measured = {"DINO": {"a": 0.5, "b": 1.0}}
    table = views_table({"here": measured, "paper": {"DINO": 0.668, "CLIP-T": 0.305}})
    assert table.rows["here"] == {"DINO": 0.75} and table.rows["paper"]["CLIP-T"] == 0.305


def test_hub_encoders_leave_the_judge_out(monkeypatch):
    """The judge knows the tiny world only: photographs must not be given its verdict."""
    tiny = Encoders()
    photos = training_pictures(SUBJECTS["cat"], 2)
    views = Views(photos, photos, photos, CONTEXTS[:2])
    assert "judged" in measure_views(views, photos, "a cat", tiny)
    from studylib.models import load

    clip, dino = load.load_clip(), load.load_dino()
    given = Encoders(clip, dino)  # loaded ones pass for a hub's
    assert "judged" not in measure_views(views, photos, "a cat", given)


def test_drift_is_zero_untouched_and_sees_every_part(pipe):
    """Exactly zero without a change; a changed text encoder moves the class as a changed denoiser does."""
    latents = Denoiser(pipe).encode(pictures())
    still = prediction_drift(pipe, moved(pipe, by=0.0), latents, "a cat")
    little, much = (prediction_drift(pipe, moved(pipe, by=by), latents, "a cat") for by in (0.01, 0.1))
    words = prediction_drift(pipe, moved(pipe, "text_encoder", 0.5), latents, "a cat")
    assert still.shape == (3,) and bool((still == 0).all())
    assert 0 < little.mean() < much.mean() and words.mean() > 0


def test_differences_have_a_partner_each():
    """A pair that one side lacks would silently leave a claim with fewer pairs than it says."""
    assert difference({("cat", 1): 0.5, ("cat", 2): 1.0}, {("cat", 2): 0.25, ("cat", 1): 0.25}) == {
        ("cat", 1): 0.25, ("cat", 2): 0.75,
    }  # fmt: skip
    with pytest.raises(ValueError, match="1 values have no partner, such as 'b'"):
        difference({"a": 1.0}, {"a": 1.0, "b": 2.0})


def test_photo_errors_are_those_inside_the_block(pipe):
    """Photo by photo at fixed noise, so that what was learned is the only difference."""
    latents = Denoiser(pipe).encode(pictures())
    one, again = (photo_errors(pipe, nullcontext(), latents, "a cat", levels=2) for _ in range(2))
    other = photo_errors(pipe, moved(pipe), latents, "a cat", levels=2)
    assert list(one) == ["photo 0", "photo 1", "photo 2"] and one == again and min(one.values()) > 0
    assert all(other[photo] != one[photo] for photo in one)
