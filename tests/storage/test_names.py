"""The table of a folder's files knows every file that is written, and says truly which of them travel."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from chatformer import (
    BahdanauConfig,
    BahdanauForConditionalGeneration,
    EnsembleConfig,
    EnsembleForConditionalGeneration,
)
from chatformer.hub.bundle import REPLACED, code_files, gather
from chatformer.storage.names import CARD_FILE, KINDS

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "tests" / "data" / "version_0_1"


def kinds_of(name):
    return [kind for kind in KINDS if any(fnmatchcase(name, pattern) for pattern in kind.patterns)]


@pytest.mark.parametrize("folder", ["run", "interrupted", "repository"])
def test_every_file_that_is_written_is_of_one_kind(folder):
    names = {path.name for path in (WRITTEN / folder).iterdir()}
    assert names and {name: len(kinds_of(name)) for name in names} == dict.fromkeys(names, 1)


def test_what_travels_is_what_the_table_says():
    names = [path.name for path in (WRITTEN / "run").iterdir()]
    travelling = {name for name in names for kind in kinds_of(name) if kind.travels}
    assert set(gather(str(WRITTEN / "run"))) == travelling
    assert travelling < set(names)
    # The repository has a card as well, of its own commit.
    assert travelling | {CARD_FILE} == {path.name for path in (WRITTEN / "repository").iterdir()}


@pytest.mark.parametrize("architecture", ["chatformer", "bahdanau", "ensemble"])
def test_the_code_that_travels_is_what_a_saved_model_has(architecture, tmp_path, request):
    if architecture == "chatformer":
        folder = request.getfixturevalue("trained")
    else:
        folder = tmp_path
        BahdanauForConditionalGeneration(BahdanauConfig(vocab_size=9, d_model=4)).save_pretrained(folder)
    if architecture == "ensemble":
        folder = tmp_path / "ensemble"
        config = EnsembleConfig(vocab_size=9, d_model=4, num_heads=1, encoder_layers=1, decoder_layers=1)
        EnsembleForConditionalGeneration(config).save_pretrained(folder)
    names = {path.name for path in folder.glob("*.py")}
    assert names == set(code_files(architecture)) and f"modeling_{architecture}.py" in names
    # Neither model carries the other one's code.
    assert len([name for name in names if name.startswith("modeling_")]) == 1


def test_a_push_removes_what_earlier_versions_called_otherwise():
    assert {path.name for path in (WRITTEN / "repository").glob("*.py")} <= set(REPLACED)


def test_the_author_s_scripts_stay_at_home(tmp_path):
    assert not any(fnmatchcase("my_secret.py", pattern) for pattern in REPLACED)
