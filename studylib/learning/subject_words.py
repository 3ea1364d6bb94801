"""What a subject that is learned is called: a word of its own and the noun of its class."""

from __future__ import annotations

from dataclasses import dataclass

from studylib.evidence.knobs import Config


@dataclass(frozen=True)
class SubjectWords(Config):
    """Base of configurations of methods that caption all photos "a [identifier] [class noun]"; either may be empty."""

    identifier: str = "sks"
    class_noun: str = "cat"

    @property
    def subject(self) -> str:
        """The subject in words: "a sks cat"; the identifier alone where the class noun is left out."""
        return " ".join(["a", *filter(None, (self.identifier, self.class_noun))])

    @property
    def class_prompt(self) -> str:
        """The class in words: "a cat"."""
        return f"a {self.class_noun}".strip()
