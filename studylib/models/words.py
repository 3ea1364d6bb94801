"""Whether a new word of a model is free: no prompt may mean it already, and the tokenizer must leave it as it is."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from studylib.models import files


def fault_of(word: str, tokenizer: Any, sentences: Iterable[str] = ()) -> str | None:
    """Say what speaks against a new word: a tokenizer (of the library tokenizers) that would change it or knows it, or
    sentences that have it, in whole or in part. None if it is free."""
    read = tokenizer.normalizer.normalize_str(word) if tokenizer.normalizer is not None else word
    if read != word:
        return f"the tokenizer reads {word!r} as {read!r}"
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    within = sorted(token for token in added if token in word)
    if within:
        return f"{word!r} contains the word {within[0]!r}, which is there already"
    used = sorted((entry.removesuffix("</w>") for entry in tokenizer.get_vocab() if word in entry), key=len)
    if used:
        return f"the tokenizer knows {word!r} already" + (f", in {used[0]!r}" if used[0] != word else "")
    text = next((text for text in sentences if word in text.lower()), None)
    return f"the prompt {text!r} has {word!r} in it" if text is not None else None


@functools.lru_cache(maxsize=256)
def fault_before_a_run(word: str, model: str, module: Path, others: tuple[str, ...]) -> str | None:
    """The same before a kernel starts: with the tokenizer of a model's folder, else the tiny world's, and with all
    texts in a paper's `module` of sentences and `others`."""
    from tokenizers import Tokenizer  # no command that has no new word needs it

    own = Path(model) / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(own if own.is_file() else files.WEIGHTS / "clip" / "tokenizer.json"))
    return fault_of(word, tokenizer, [*texts_in(module), *others])


def texts_in(module: Path) -> list[str]:
    """All texts in a Python file, read without running it."""
    found = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    return [node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def other_texts(values: Mapping[str, Any], word: str, paths: Iterable[str]) -> tuple[str, ...]:
    """The texts among a notebook's parameters that may stand in prompts: not the word itself, no model and no path."""
    left_out = {word, "model", *paths}
    return tuple(text for name, text in values.items() if isinstance(text, str) and text and name not in left_out)
