"""A training's folder belongs to one training: taken up again it ends as it would have, and another is refused."""

import pytest
import small_trainings
import tiny_pipelines
import torch
from small_trainings import STEPS, TRAININGS, pictures, train

from studylib.errors import StudyError

KEPT = (0, 1, STEPS)
OTHER_CHOICE = {  # of the method alone: the loop's own settings are the same
    "DreamBooth": {"prior_loss_weight": 2.0}, "Textual Inversion": {"embedding_reg_weight": 1.0},
    "LoRA": {"lora_alpha": 3.0}, "hypernetwork": {"class_noun": "boat"},
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipelines.sd()


def stop(step, gradients):
    if step == 3:
        raise KeyboardInterrupt


def assert_same(one, other):
    (weights, snapshots, history), (same_weights, same_snapshots, same_history) = one, other
    assert weights.keys() == same_weights.keys() and set(KEPT) <= snapshots.keys() == same_snapshots.keys()
    assert all(torch.equal(weight, same_weights[name]) for name, weight in weights.items())
    for step, kept in snapshots.items():
        assert all(torch.equal(weight, same_snapshots[step][name]) for name, weight in kept.items()), step
    assert history.column() == same_history.column()


@pytest.mark.parametrize("method", TRAININGS)
def test_taken_up_again_it_ends_the_same(method, pipe, tmp_path):
    """Cut off and gone on, or finished and asked for once more: weights, snapshots and traces are those of one piece.

    A finished word came back as its initial vectors, without its trace."""
    photos = pictures(0)
    whole = train(method, pipe, photos, keep=KEPT)
    with pytest.raises(KeyboardInterrupt):
        train(method, pipe, photos, keep=KEPT, folder=tmp_path, save_every=-1.0, after_backward=stop)
    resumed = train(method, pipe, photos, keep=KEPT, folder=tmp_path)
    assert_same(whole, resumed)
    again = train(method, pipe, photos, keep=KEPT, folder=tmp_path)
    assert_same(whole, again)
    assert again[2].memory_mib == resumed[2].memory_mib and again[2].seconds == resumed[2].seconds


@pytest.mark.parametrize("method", TRAININGS)
def test_another_training_is_refused(method, pipe, tmp_path):
    """Where one photo of three, the method's own choices or the model differ, the folder gave back the first result."""
    train(method, pipe, pictures(0), folder=tmp_path)
    with pytest.raises(StudyError, match="other data: pictures of_subject differ"):
        train(method, pipe, [*pictures(0)[:2], *pictures(1, 1)], folder=tmp_path)
    with pytest.raises(StudyError, match=next(iter(OTHER_CHOICE[method]))):
        train(method, pipe, pictures(0), changes=OTHER_CHOICE[method], folder=tmp_path)
    with pytest.raises(StudyError, match="other model"):
        train(method, tiny_pipelines.sd(seed=1), pictures(0),
              folder=tmp_path)  # fmt: skip


@pytest.mark.skipif("LoRA" not in TRAININGS, reason="LoRA was deleted")
def test_other_captions_are_refused(pipe, tmp_path):
    """A LoRA learns what its captions say; the pictures alone do not tell two trainings apart."""
    train("LoRA", pipe, pictures(0), folder=tmp_path, captions=["a", "b", "c"])
    with pytest.raises(StudyError, match="other captions"):
        train("LoRA", pipe, pictures(0), folder=tmp_path, captions=["a", "b", "d"])


@pytest.mark.skipif("LoRA" not in TRAININGS, reason="LoRA was deleted")
def test_steps_that_were_not_kept_are_said(pipe, tmp_path):
    """A finished training cannot go back for the weights of a step that nobody asked it to keep."""
    train("LoRA", pipe, pictures(0), folder=tmp_path, keep=(2,))
    with pytest.raises(StudyError, match=r"has not kept the weights of step 1; it kept \[2\]"):
        train("LoRA", pipe, pictures(0), folder=tmp_path, keep=(1, 2))


@pytest.mark.skipif("DreamBooth" not in TRAININGS, reason="DreamBooth was deleted")
def test_pictures_of_the_class_count(pipe, tmp_path, monkeypatch):
    """The prior is data as well."""
    train("DreamBooth", pipe, pictures(0), folder=tmp_path)
    monkeypatch.setattr(small_trainings, "pictures", lambda seed, count: pictures(seed + 1, count))
    with pytest.raises(StudyError, match="pictures of_class differ|first batch's class"):
        train("DreamBooth", pipe, pictures(0), folder=tmp_path)
