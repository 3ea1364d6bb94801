"""Cards, presets, the course and the README's table."""


import pytest
from mini_workspace import CLAIM, KINDS, card_text

from studylib.errors import StudyError
from studylib.evidence.card import load_card
from studylib.evidence.course import course
from studylib.evidence.paper import load_presets
from studylib.reports import readme as readme_sections
from studylib.running.parameters import check_parameters
from studylib.workspace import find_root, written_papers

COURSE = """dreambooth textual_inversion lora hypernetworks controlnet t2i_adapter sdedit style_aligned adain
instantstyle ip_adapter deadiff photomaker instantid flashface anydoor dragdiffusion dragondiffusion
diffeditor vit dit diffit ominicontrol dit4edit""".split()


def test_course_holds_the_24_papers_in_order():
    """Readers follow this order; a paper lost from it would vanish from every list."""
    assert [entry.slug for entry in course()][:24] == COURSE


def test_every_written_paper_is_sound():
    """A committed card, preset or parameters cell that does not fit would fail only when someone runs it."""
    for slug in written_papers():
        card = load_card(slug)
        assert course()[card.order - 1].slug == slug
        for values in ({}, *load_presets(slug).values()):
            check_parameters(slug, values)


def test_card_is_read(workspace):
    """The fields a notebook shows must arrive as written."""
    card = load_card("mini")
    assert (card.title, card.year, card.knobs["strength"].max) == ("A Small Study", 2024, 1.0)
    assert {claim.id: claim.kind for claim in card.claims} == KINDS


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (card_text() + "\ncolour = 'red'\n", "claims.4.colour"),
        (card_text({"one": "exact"}), "at least 5"),
        (card_text({**KINDS, "sixth": "vague"}), "claims.5.kind"),
        (card_text(paper="0.5 of 1"), "verified, recalled"),
        (card_text().replace("max = 1.0", "max = -1.0"), "min 0.0 is above max -1.0"),
        (card_text().replace("year = 2024", "year = 'soon'"), "year"),
        (card_text().replace('slug = "mini"', 'slug = "maxi"'), "slug = 'mini'"),
        ("slug = ", "not valid TOML"),
    ],
)
def test_faulty_card_is_refused(workspace, text, named):
    """A misspelt or missing field must be named, not ignored."""
    (workspace / "papers" / "mini" / "card.toml").write_text(text)
    with pytest.raises(StudyError) as caught:
        load_card("mini")
    assert named in str(caught.value)


def test_claim_ids_differ(workspace):
    """Two claims of one id would overwrite each other's verdict."""
    text = card_text() + CLAIM.format(id="count", kind="exact", paper="")
    (workspace / "papers" / "mini" / "card.toml").write_text(text)
    with pytest.raises(StudyError, match="used twice: count"):
        load_card("mini")


@pytest.mark.parametrize("letter", [r"\u001b", r"\u202e", r"\u0007"])
def test_texts_cannot_steer_a_terminal(workspace, letter):
    """Titles are printed by `study list` and stand in tables and cards; TOML can write any letter."""
    card = workspace / "papers" / "mini" / "card.toml"
    card.write_text(card.read_text().replace('title = "', f'title = "{letter}'))
    with pytest.raises(StudyError, match=r"title: .*control character"):
        load_card("mini")


def test_unknown_paper_names_the_nearest(workspace):
    """A slip of the finger should cost one look, not a search."""
    with pytest.raises(StudyError, match="Did you mean mini"):
        load_card("mnii")


def test_preset_values_stand_under_a_name(workspace):
    """A value above the first [name] line would silently belong to no preset."""
    (workspace / "papers" / "mini" / "presets.toml").write_text("steps = 3\n")
    with pytest.raises(StudyError, match="sets steps outside a preset"):
        load_presets("mini")


def test_table_tells_planned_from_measured(workspace):
    """The table is the promise to readers: it may not show a paper as measured before it is."""
    mini, later = readme_sections.papers_table().splitlines()[2:]
    assert "notebooks/mini.ipynb" in mini and "not rendered yet" in mini
    assert "notebooks" not in later and "planned" in later and r"will \| run" in later
    (workspace / "papers" / "mini" / "results.json").write_text(
        '{"claims": {"a": {"verdict": "held"}, "b": {"verdict": "reversed"}, "c": {"verdict": "held"}}}',
    )
    assert "2 held, 1 reversed" in readme_sections.papers_table()


def test_readme_keeps_what_stands_around_the_table(workspace):
    """Only the lines between the markers are generated; the rest is somebody's prose."""
    readme = workspace / "README.md"
    readme.write_text(f"before\n{readme_sections.README_START}\nold\n{readme_sections.README_END}\nafter\n")
    assert readme_sections.update_readme() is True
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "A Later Study" in text
    assert readme_sections.update_readme() is False


SWAPPED = f"{readme_sections.README_END}\n{readme_sections.README_START}\n"


@pytest.mark.parametrize("text", [None, "no markers\n", SWAPPED])
def test_readme_without_a_place_for_the_table(workspace, text):
    """A table that could not be written must be said, or README stays stale for ever."""
    if text is not None:
        (workspace / "README.md").write_text(text)
    with pytest.raises(StudyError, match="papers:start"):
        readme_sections.update_readme()


def test_root_is_found_from_the_package_and_named_by_the_environment(workspace, monkeypatch):
    """Commands must work from any folder, and say so when STUDY_ROOT is wrong."""
    assert find_root() == workspace
    monkeypatch.setenv("STUDY_ROOT", str(workspace / "notebooks"))
    with pytest.raises(StudyError, match="STUDY_ROOT=.* is no workspace"):
        find_root()
    monkeypatch.delenv("STUDY_ROOT")
    monkeypatch.chdir("/")
    assert (find_root() / "studylib" / "workspace.py").is_file()
