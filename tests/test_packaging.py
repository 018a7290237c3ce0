import json
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

READ_PACKAGE_DATA = """
import json, sys
sys.path.insert(0, sys.argv[1])
import chatformer
from importlib import resources
from chatformer.configuration.recipes import read_recipe, recipe_names
starter = resources.files("chatformer.data").joinpath("starter")
print(json.dumps({
    "home": chatformer.__file__,
    "recipes": {name: read_recipe(name).flat()["data"] for name in recipe_names()},
    "conversations": sum(len(file.read_text("utf-8").splitlines()) for file in starter.iterdir()),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel's file, built from a copy: what setuptools leaves in a checkout gets into its next wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "benchmarks", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(folder / "source")]
    if find_spec("setuptools"):
        command.append("--no-build-isolation")
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_nothing_but_chatformer_gets_installed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "chatformer" in tops
    assert next(iter(tops - {"chatformer"})).endswith(".dist-info")
    assert not [name for name in names if "test" in name or "benchmark" in name]


def test_every_source_and_data_file_gets_installed(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    rooms = "configuration modeling_chatformer storage data chat evaluation training hub cli"
    for folder in rooms.split():
        inside = "chatformer" if folder == "modeling_chatformer" else f"chatformer/{folder}"
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert "chatformer/py.typed" in names
    assert {"chatformer/data/chat_template.jinja", "chatformer/data/question_template.jinja"} <= set(names)
    assert "chatformer/configuration/recipes/quickstart.yaml" in names
    assert {"chatformer/training/launch/ddp.yaml", "chatformer/training/launch/slurm.sh"} <= set(names)
    assert {"chatformer/hub/model_card.md.jinja", "chatformer/hub/space_template/app.py.jinja"} <= set(names)
    assert [name for name in names if name.startswith("chatformer/data/starter/")]


def test_the_installed_package_finds_its_recipes_and_its_corpus(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = [sys.executable, "-c", READ_PACKAGE_DATA, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert Path(found["home"]).is_relative_to(tmp_path)
    assert "quickstart" in found["recipes"] and all(found["recipes"].values())
    assert found["conversations"] > 1000


@pytest.mark.parametrize("module", ["encoder", "decoder", "fast_decoding", "fast_training"])
def test_every_part_can_be_imported_first(module):
    script = f"""if True:
        import chatformer.{module}
        from transformers import AutoModelForSeq2SeqLM
        print(type(AutoModelForSeq2SeqLM.from_config(chatformer.sized_config("tiny", vocab_size=9))).__name__)
    """
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stdout == "ChatformerForConditionalGeneration\n", process.stderr


def test_the_command_is_called_chatformer(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "chatformer = chatformer.cli.main:main" in archive.read(entry_points).decode()
