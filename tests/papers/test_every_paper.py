"""What holds of every paper: committed results fit the card, presets fit the notebook."""

import json

import pytest

from studylib.evidence.card import load_card
from studylib.evidence.paper import load_presets, load_results
from studylib.running.notebook import read_notebook
from studylib.running.parameters import check_parameters
from studylib.workspace import notebook_path, written_papers

RENDERED = [slug for slug in written_papers() if load_results(slug)]
PRESETS = [(slug, preset) for slug in written_papers() for preset in load_presets(slug)]


@pytest.mark.parametrize("slug", RENDERED)
def test_committed_results_match_the_card(slug):
    """README and study list quote results.json: it must hold every claim of today's card, as the notebook prints it."""
    results = load_results(slug)
    assert set(results["claims"]) == {claim.id for claim in load_card(slug).claims}
    printed = json.dumps([cell.get("outputs") for cell in read_notebook(notebook_path(slug))["cells"]])
    assert not [id for id in results["claims"] if id not in printed]


@pytest.mark.parametrize(("slug", "preset"), PRESETS)
def test_presets_are_parameters_of_the_notebook(slug, preset):
    """A preset with a wrong name, type or range would only be noticed by who starts it on a GPU."""
    values = load_presets(slug)[preset]
    checked = check_parameters(slug, values)
    assert values and checked | values == checked
