"""What a subject is called: the words that a paper's ablations change, and where they stand in a configuration."""

from dataclasses import dataclass

import pytest

from studylib.evidence.knobs import knob
from studylib.learning.subject_words import SubjectWords


@dataclass(frozen=True)
class Config(SubjectWords):
    """Some method's knobs."""

    rate: float = knob(0.5, 0.0, 1.0)


def test_words_of_subject_and_class():
    """Right, wrong or left out, as DreamBooth's ablation has them."""
    assert (Config().subject, Config().class_prompt) == ("a sks cat", "a cat")
    assert Config(identifier="red", class_noun="car").subject == "a red car"
    assert Config(class_noun="").subject == "a sks" and Config(class_noun="").class_prompt == "a"


def test_the_words_are_knobs_like_the_methods_own():
    """A notebook's parameters reach them, and ranges are checked as before."""
    made = Config.from_parameters({"class_noun": "boat", "rate": 0.25, "seed": 3})
    assert made == Config(class_noun="boat", rate=0.25) and Config.ranges() == {"rate": (0.0, 1.0)}
    with pytest.raises(ValueError, match="rate"):
        Config(rate=2.0)
