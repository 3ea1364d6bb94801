"""Checks given values against a notebook's `parameters` cell before any kernel starts."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from studylib.errors import StudyError, cut, nearest
from studylib.evidence.card import Card, Knob, load_card
from studylib.evidence.paper import load_presets
from studylib.files import given_path
from studylib.models import words
from studylib.running.parameters_cell import Parameter, cell_of, is_int, read_parameters
from studylib.workspace import notebook_path, paper_folder

TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")
NONE = ("none", "null")
BIGGEST = 2**63  # a record holds 64 bits
_models: dict[str, tuple[dict[str, "Parameter"], Card, type[BaseModel]]] = {}  # slug -> made from, made


def parameter_model(slug: str) -> type[BaseModel]:
    """Build a paper's parameter model: types and defaults from the notebook, ranges from the card.

    Raises StudyError when the card describes a knob the notebook does not have, or a default is out of range.
    """
    parameters, card = cell_of(notebook_path(slug)), load_card(slug)
    known = _models.get(slug)
    if known is None or known[0] is not parameters or known[1] is not card:  # one of the two files has changed
        known = _models[slug] = parameters, card, _build_model(slug, parameters, card.knobs)
    return known[2]


def _build_model(slug: str, parameters: dict[str, Parameter], knobs: dict[str, Knob]) -> type[BaseModel]:
    strangers = [name for name in knobs if name not in parameters]
    if strangers:
        raise StudyError(
            f"papers/{slug}/card.toml describes knobs the notebook does not have: {', '.join(strangers)}",
            f"Rename them; the notebook has: {', '.join(parameters)}",
        )
    fields: dict[str, Any] = {}
    for name, parameter in parameters.items():
        knob = knobs.get(name, Knob())
        _check_knob(slug, parameter, knob)
        kind: Any = Literal[tuple(knob.choices)] if knob.choices else parameter.type
        if knob.min is not None or knob.max is not None:
            kind = Annotated[kind, Field(ge=knob.min, le=knob.max)]
        if parameter.type is float:
            kind = Annotated[kind, Field(allow_inf_nan=False)]
        kind = Optional[kind] if parameter.optional else kind  # noqa: UP045 - `kind | None` fails on Literal of a tuple
        fields[name] = (kind, Field(parameter.default, description=knob.help or parameter.help))
    config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_default=True, protected_namespaces=()
    )
    return create_model(f"{slug}_parameters", __config__=config, **fields)


def _check_knob(slug: str, parameter: Parameter, knob: Knob) -> None:
    """StudyError where a card's range or choices do not fit the parameter's type or its default."""
    numeric = parameter.type in (int, float)
    others = [choice for choice in knob.choices or () if type(choice) is not parameter.type]
    fault = ""
    if not numeric and (knob.min is not None or knob.max is not None):
        fault = f"a range, but takes {parameter.described}"
    elif others:
        fault = f"the choice {others[0]!r}, but takes {parameter.described}"
    if fault:
        raise StudyError(f"papers/{slug}/card.toml gives {parameter.name} {fault}", "Mend that knob")


class Checks:
    """What given parameters of a paper are checked against, read once: for a sweep, before its first point."""

    def __init__(self, slug: str) -> None:
        self.slug = slug
        self.parameters = read_parameters(notebook_path(slug))
        self.knobs = load_card(slug).knobs
        self.model = parameter_model(slug)

    def all_values(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters, `given` ones over the defaults, with name, type and range checked.

        Strict: a bool is no int, a float no int; an int is accepted for a float. StudyError names every fault
        at once.
        """
        known = self.parameters
        huge = [name for name, value in given.items() if is_int(value) and abs(value) >= BIGGEST]
        if huge:
            raise StudyError(f"{', '.join(huge)}: beyond 64 bits, more than a record holds", "Give smaller numbers")
        given = {
            name: float(value) if is_int(value) and name in known and known[name].type is float else value
            for name, value in given.items()
        }
        try:
            values = self.model(**given).model_dump()
        except ValidationError as error:
            faults, remedies = [], []
            for fault in error.errors():
                name = str(fault["loc"][0])
                cause, remedy = _explain(name, fault["input"], known, self.knobs.get(name, Knob()), self.slug)
                faults.append(cause)
                remedies.append(remedy)
            raise StudyError(cut("; ".join(dict.fromkeys(faults))), cut("; ".join(dict.fromkeys(remedies)))) from error
        self._check_new_words(values)
        return values

    def _check_new_words(self, values: dict[str, Any]) -> None:
        paths = [name for name, knob in self.knobs.items() if knob.folder or knob.file]
        for name in (name for name, knob in self.knobs.items() if knob.sentences):
            module = paper_folder(self.slug) / self.knobs[name].sentences
            others = words.other_texts(values, name, paths)
            fault = words.fault_before_a_run(values[name], str(values.get("model", "")), module, others)
            if fault:
                free = self.parameters[name].default
                raise StudyError(f"{name}: {fault}", f"Choose a word that nobody uses, such as {free}")

    def absolute_folders(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values with folders and files as absolute paths, seen from where the user stands: a kernel runs
        elsewhere. Raises StudyError for a path that is none.
        """
        found = dict(values)
        for name, knob in self.knobs.items():
            if (knob.folder or knob.file) and isinstance(found.get(name), str) and found[name]:
                path, kind = given_path(found[name]).resolve(), "folder" if knob.folder else "file"
                if not (path.is_dir() if knob.folder else path.is_file()):
                    raise StudyError(f"{name}: {path} is no {kind}", "Relative paths begin where you stand")
                found[name] = str(path)
        return found


def check_parameters(slug: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return all parameters of a paper, `given` ones over the defaults; StudyError names every fault at once."""
    return Checks(slug).all_values(given)


def parse_assignments(slug: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Turn command line texts `name=value` into values of the parameters' types.

    For a bool true/yes/on and false/no/off are understood; for an Optional, none. StudyError names what is
    not.
    """
    parameters = read_parameters(notebook_path(slug))
    values: dict[str, Any] = {}
    faults: list[StudyError] = []
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        try:
            if not equals:
                raise StudyError(f"-p {cut(assignment)} has no value", "Write -p name=value")
            if name in values:
                raise StudyError(f"{name} is given twice", "Keep one of the two")
            if name not in parameters:
                raise StudyError(*_unknown(name, parameters, slug))
            values[name] = _parse(parameters[name], text)
        except StudyError as error:
            faults.append(error)
    if faults:
        try:  # the rest may be out of range
            check_parameters(slug, values)
        except StudyError as error:
            faults.append(error)
        causes, remedies = ([getattr(fault, part) for fault in faults] for part in ("cause", "remedy"))
        raise StudyError("; ".join(dict.fromkeys(causes)), "; ".join(dict.fromkeys(remedies)))
    return values


def preset_values(slug: str, preset: str | None) -> dict[str, Any]:
    """Return a preset's values, none for no preset; StudyError for an unknown one names the nearest."""
    if preset is None:
        return {}
    presets = load_presets(slug)
    if preset not in presets:
        raise StudyError(
            f"{slug} has no preset {preset!r}",
            f"{nearest(preset, presets)}It has: {', '.join(presets) or 'none'}",
        )
    return presets[preset]


def _parse(parameter: Parameter, text: str) -> Any:
    word = text.lower()
    if parameter.optional and word in NONE:
        return None
    if parameter.type is str:
        return text
    if parameter.type is bool and word in TRUE + FALSE:
        return word in TRUE
    if parameter.type is int and re.fullmatch(r"[+-]?\d{1,400}", text):
        return int(text)
    if parameter.type is float and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    raise StudyError(
        f"{parameter.name} takes {parameter.described}, not {cut(repr(text))}", f"Its default is {parameter.default}"
    )


def _explain(
    name: str,
    value: Any,
    parameters: dict[str, Parameter],
    knob: Knob,
    slug: str,
) -> tuple[str, str]:
    """Say in words why `value` does not fit parameter `name`: cause and remedy."""
    if name not in parameters:
        return _unknown(name, parameters, slug)
    parameter = parameters[name]
    default = f"Its default is {parameter.default}"
    if parameter.type is bool and isinstance(value, str) and value.lower() in TRUE + FALSE:
        remedy = f"Plain papermill passes that word as a text, which counts as true: write {value.lower() in TRUE}"
        return f"{name} takes {parameter.described}, not {value!r}", remedy
    if type(value) is not parameter.type or isinstance(value, float) and not math.isfinite(value):
        return f"{name} takes {parameter.described}, not {value!r}", default
    if knob.choices:
        return f"{name} is one of {', '.join(map(str, knob.choices))}, not {value!r}", default
    low, high = knob.min, knob.max
    if low is None and high is None:
        return f"{name} takes {parameter.described}, not {value!r}", default
    if high is None:
        return f"{name} is at least {low:g}, not {value!r}", default
    if low is None:
        return f"{name} is at most {high:g}, not {value!r}", default
    return f"{name} is between {low:g} and {high:g}, not {value!r}", default


def _unknown(name: str, parameters: dict[str, Parameter], slug: str) -> tuple[str, str]:
    return f"{slug} has no parameter {name!r}", f"{nearest(name, parameters)}It has: {', '.join(parameters)}"
