"""A knob's range stands beside its field; the card and the notebook must say the same."""

import importlib
import re
from pathlib import Path

import pytest

from studylib.evidence.card import load_card
from studylib.evidence.knobs import Config
from studylib.running.parameters import read_parameters
from studylib.workspace import notebook_path

PAPERS = sorted(path.parent.name for path in (Path(__file__).parents[2] / "papers").glob("*/method.py"))
RANGE = re.compile(r"\[([^,\[\]]+), ([^,\[\]]+)\]")


def config_of(method):
    """The one configuration that a method's module defines."""
    own = [kind for kind in vars(method).values() if isinstance(kind, type) and kind.__module__ == method.__name__]
    (config,) = [kind for kind in own if issubclass(kind, Config)]
    return config


@pytest.mark.parametrize("slug", PAPERS)
def test_card_and_notebook_have_the_ranges_of_the_config(slug):
    """Three places with numbers of their own would drift apart."""
    method = importlib.import_module(f"papers.{slug}.method")
    config = config_of(method)
    knobs, parameters = load_card(slug).knobs, read_parameters(notebook_path(slug))
    for name in parameters.keys() & config.ranges().keys():
        assert (knobs[name].min, knobs[name].max) == config.ranges()[name], name
    for name in parameters.keys() & config.choices().keys():
        assert knobs[name].choices == list(config.choices()[name]), name
    for name, parameter in parameters.items():
        written = RANGE.search(parameter.help)
        if written and name in knobs:
            assert tuple(map(float, written.groups())) == (knobs[name].min, knobs[name].max), name


@pytest.mark.parametrize("slug", PAPERS)
def test_the_config_is_made_of_the_parameters(slug):
    """The notebook's defaults build a config, and each of its fields that is a parameter has the parameter's value."""
    method = importlib.import_module(f"papers.{slug}.method")
    config = config_of(method)
    defaults = {name: parameter.default for name, parameter in read_parameters(notebook_path(slug)).items()}
    made = config.from_parameters(defaults)
    shared = set(vars(made)) & set(defaults)
    assert shared and {name: getattr(made, name) for name in shared} == {name: defaults[name] for name in shared}
