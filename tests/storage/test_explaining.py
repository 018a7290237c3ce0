"""What is said of a model that neither a folder nor the Hub has."""

import pytest
from huggingface_hub.errors import HFValidationError

from chatformer.storage.explaining import models_beside, no_model


@pytest.fixture
def runs(tmp_path, monkeypatch):
    for name in ("faq", "faq-large", "poems", "tunes", "notes"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if name != "notes":
            (tmp_path / "runs" / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs/fqa", " Did you mean runs/faq?"),
        ("runs/poem/", " Did you mean runs/poems?"),
        ("runs/zzz", " runs has faq, faq-large, poems and 1 more."),
        ("runs/notes-2", " runs has faq, faq-large, poems and 1 more."),
        ("elsewhere/faq", ""),
        ("faq", ""),
    ],
)
def test_a_model_that_is_not_there_is_answered_with_those_beside_it(runs, name, said):
    assert models_beside(name) == said


def test_in_the_folder_of_the_models_their_names_are_enough(runs, monkeypatch):
    monkeypatch.chdir("runs")
    assert models_beside("fqa") == models_beside("./fqa") == " Did you mean faq?"
    # What else is where one works is not listed.
    assert models_beside("zzz") == ""


def test_a_name_that_the_hub_cannot_have_is_not_explained_by_the_hubs_rules(runs):
    assert no_model(HFValidationError("Repo id must be in the form 'repo_name'"), "./runs/fqa") == (
        "There is no folder ./runs/fqa, and no model on the Hub can be called so. Did you mean runs/faq?"
    )
    told = no_model(ConnectionError("no network"), "runs/fqa")
    assert told == (
        "There is no folder runs/fqa, and the Hub gave no model runs/fqa: no network. Did you mean runs/faq?"
    )
