"""A new word must be free: a prompt that has it already would change its meaning, without a word about it."""

import pytest
from tokenizers import Tokenizer

from studylib.errors import StudyError
from studylib.models import files
from studylib.models.words import fault_of
from studylib.running.parameters import check_parameters


@pytest.fixture
def tokenizer():
    return Tokenizer.from_file(str(files.WEIGHTS / "clip" / "tokenizer.json"))


@pytest.mark.parametrize("word, named", [
    ("cat", "knows 'cat' already"), ("kitten", "knows 'kitten'"), ("ca", "in 'ca"), ("sks", "knows 'sks'"),
    ("<Cat>", "reads '<Cat>' as '<cat>'"), ("<cafe\u0301>", "reads"), ("<|endoftext|>", "contains the word"),
    ("ndered", "the prompt 'a rendered scene' has 'ndered' in it"),
])  # fmt: skip
def test_a_word_in_use_is_refused(tokenizer, word, named):
    """In the vocabulary words end in "</w>", so that "cat" was not found there; parts of words count as well."""
    assert named in fault_of(word, tokenizer, ["a rendered scene"])


def test_words_do_not_swallow_each_other(tokenizer):
    """A tokenizer cuts its added words out of a text first, wherever they stand."""
    assert fault_of("<cat>", tokenizer) is None
    tokenizer.add_tokens(["<cat>", "<cat>_1"])
    assert "contains the word '<cat>'" in fault_of("my<cat>", tokenizer)
    assert "knows '<ca' already" in fault_of("<ca", tokenizer) and "already" in fault_of("<cat>_1", tokenizer)
    assert fault_of("<cat2>", tokenizer) is None


@pytest.mark.parametrize("word", ["cat", "photo", "endition", "<Cat>", "zebra", "the"])
def test_it_is_refused_before_a_kernel_starts(word):
    """The identities of such a run failed, minutes later. "photo" stands in the sentences, a zebra is the class."""
    with pytest.raises(StudyError, match="placeholder_token: .*Choose a word that nobody uses, such as <cat>"):
        check_parameters("textual_inversion", {"placeholder_token": word, "class_noun": "zebra"})
    check_parameters("textual_inversion", {"placeholder_token": "<boat>", "images": "/photos/<boat>"})
