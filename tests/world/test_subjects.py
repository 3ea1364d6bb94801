"""Subjects of the tiny world: the same one in every picture, new places and styles kept for the tests."""

import numpy as np
import pytest

from studylib.measuring import metrics
from studylib.world import PLACES, STYLES
from studylib.world.subjects import (
    CONTEXTS,
    PEOPLE_CONTEXTS,
    SUBJECTS,
    TRAINING_PLACES,
    TRAINING_STYLE,
    contexts_for,
    subject_in,
    training_pictures,
)


def test_training_pictures_are_repeatable_and_differ():
    """Equal for equal seeds; a set of equal pictures would teach a picture, not a subject."""
    one, again, other = (training_pictures(SUBJECTS["cat"], 5, seed) for seed in (0, 0, 1))
    same = [np.array_equal(a, b) for a, b in zip(one, again, strict=True)]
    assert all(same) and not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({picture.tobytes() for picture in one}) == 5


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_is_told_from_others_of_its_class(name):
    """DINO has to see one subject in the pictures: nearer to each other than to another subject of the noun."""
    subject = SUBJECTS[name]
    own = metrics.image_features(training_pictures(subject, 5))
    others = [scene for scene in SUBJECTS.values() if scene is not subject]
    foreign = metrics.image_features([training_pictures(scene, 1)[0] for scene in others])
    inner = (own @ own.T)[~np.eye(5, dtype=bool)].min()
    assert inner > (own @ foreign.T).max() + 0.2


def test_contexts_are_new_and_judged_as_asked():
    """The judge has to see in the true pictures what each context asks for, else it cannot measure a method."""
    seen = {(dict(c.changes).get("place"), dict(c.changes).get("style")) for c in CONTEXTS}
    trained = {(place, TRAINING_STYLE) for place in TRAINING_PLACES}
    assert len(seen) == len(CONTEXTS) and not seen & trained
    assert {p for p, _ in seen} >= set(PLACES) - set(TRAINING_PLACES)
    assert {s for _, s in seen} >= set(STYLES) - {TRAINING_STYLE}
    pairs = [(subject, context) for subject in SUBJECTS.values() for context in contexts_for(subject)]
    pictures = [subject_in(subject, context) for subject, context in pairs]
    expected = [{"noun": subject.noun} | context.asked for subject, context in pairs]
    assert metrics.accuracy(pictures, expected) > 0.9
    assert CONTEXTS[0].prompt("a sks cat") == "a sks cat at night"


def test_a_person_has_expressions_and_poses_as_contexts():
    """Ten contexts for each subject; a person can smile and look aside, a boat cannot."""
    person = SUBJECTS["person"]
    assert len(CONTEXTS) == len(PEOPLE_CONTEXTS) == 10 and contexts_for(person) is PEOPLE_CONTEXTS
    prompts = [context.prompt("a sks person") for context in PEOPLE_CONTEXTS]
    assert "a smiling sks person" in prompts and "a sks person looking left" in prompts
    moods = [context.asked for context in PEOPLE_CONTEXTS if not context.words.startswith("{}")]
    assert moods == [{"expression": "smiling"}, {"expression": "surprised"}]
    left, right = (subject_in(person, context) for context in PEOPLE_CONTEXTS[-2:])
    assert not np.array_equal(left, right)
    with pytest.raises(ValueError, match="asks for a person; the subject is a boat"):
        subject_in(SUBJECTS["boat"], PEOPLE_CONTEXTS[-1])


@pytest.mark.parametrize("name", SUBJECTS)
def test_five_seeds_give_five_sets_of_pictures(name):
    """Trainings are replicates only if their photos differ: no picture of one set may be in another."""
    sets = [{picture.tobytes() for picture in training_pictures(SUBJECTS[name], 5, seed)} for seed in range(5)]
    assert len(set.union(*sets)) == 25


def test_counts_out_of_range_are_refused():
    """No pictures, or more than there are contexts for, is a mistake of the caller."""
    for count in (0, 21):
        with pytest.raises(ValueError, match=r"\[1, 20\]"):
            training_pictures(SUBJECTS["cat"], count)
