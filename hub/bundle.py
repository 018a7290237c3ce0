"""
What travels from a model's folder: the files of an allow-list, without what is private to the author.

No other file travels: no pickle (`training_args.bin`, `.pt`), no checkpoint with its optimizer states, no cache, no
notes.
"""

import shutil
from collections.abc import Collection
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from transformers.dynamic_module_utils import get_relative_import_files

from chatformer.storage.explaining import first_line, models_beside
from chatformer.storage.model_folder import MODELS, ModelFolder
from chatformer.storage.names import (
    CARD_FILE,
    CONFIG_FILE,
    EVALUATION_FILE,
    KINDS,
    LOG_FILE,
    PICTURES,
    RECORD_FILES,
    SENTENCEPIECE_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
)
from chatformer.storage.reading import read_json_lines, read_structure
from chatformer.storage.run_folder import samples_in
from chatformer.storage.writing import json_line, json_text

from .errors import HubError, as_hub_error
from .privacy import check_no_token, without_paths, without_places

Bundle = dict[str, Path | bytes]
"""Each file by its path in the repository: the file to copy, or its content."""


def code_files(model_type: str) -> tuple[str, ...]:
    """The names of the files that `save_pretrained` copies, asked of the function that it asks itself."""
    # The modules that `config.json` names; `save_pretrained` copies them and what they import.
    entries = {
        "chatformer.configuration": (f"configuration_{model_type}.py",),
        "chatformer": (f"modeling_{model_type}.py", "pipeline_chatformer.py"),
    }
    names: set[str] = set()
    for package_name, modules in entries.items():
        with resources.as_file(resources.files(package_name)) as package:
            for module in modules:
                names |= {module, *(Path(file).name for file in get_relative_import_files(package / module))}
    return tuple(sorted(names))


CODE = tuple(sorted({name for model_type in MODELS for name in code_files(model_type)}))
EARLIER_CODE = {"next_token.py": "fast_decoding.py", "products.py": "fast_products.py"}
"""Code of version 0.1, each file with its successor, in whose presence it does not travel."""

PATTERNS = (
    *(
        pattern
        for kind in KINDS
        for pattern in kind.patterns
        # The model's own scripts follow by name. The card is written for each commit.
        if kind.travels and pattern not in ("*.py", CARD_FILE)
    ),
    *CODE,
    *EARLIER_CODE,
)
REPLACED = tuple(pattern for pattern in PATTERNS if pattern != PICTURES)
"""Files that a push removes from a repository if the folder no longer has them."""

EVALUATION = (
    "exchanges",
    "figures",
    "baselines",
    "by_turns",
    "pictures",
    "tunes",
    "signatures",
    "settings",
    "weights_sha256",
    "data",
    "training_data",
    "environment",
)
"""The parts of `evaluation.json` that travel: all but the conversations, which may be private."""

PRIVATE_SETTINGS = ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_samples", "log_with")
"""Settings that a published recipe leaves out: they say where its author publishes and reports."""


@as_hub_error()
def gather(folder: str, questions: Collection[str] = ()) -> Bundle:
    """
    The files that travel from a model's folder, without its card; raise a `HubError` if the model is incomplete.

    Only conversations of the log that have one of the `questions` travel.
    """
    root = Path(folder)
    if not root.is_dir():
        raise HubError(f"There is no folder {folder}.{models_beside(folder)}")
    if not (root / CONFIG_FILE).is_file():
        raise HubError(f"The folder {folder} holds no model: it has no {CONFIG_FILE}.")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_file())
    names = [name for name in names if EARLIER_CODE.get(name) not in names]
    bundle: Bundle = {name: root / name for name in names if any(fnmatchcase(name, pattern) for pattern in PATTERNS)}
    for name in bundle:
        if name in (CONFIG_FILE, *RECORD_FILES):
            bundle[name] = rewritten(root / name, questions)
    check_complete(folder, bundle)
    for name, content in bundle.items():
        check_no_token(name, content)
    return bundle


def rewritten(file: Path, questions: Collection[str]) -> bytes:
    """A configuration that names its own code only, or a record without what is private to the author."""
    if file.name == LOG_FILE:
        text = "".join(json_line(with_samples_of(line, questions)) for line in read_json_lines(file))
        return without_places(text, file).encode()
    content = read_structure(file)
    try:
        if file.name == CONFIG_FILE:
            content = with_own_code(content)
        elif file.name == EVALUATION_FILE:
            content = {name: content[name] for name in EVALUATION if name in content}
        elif file.suffix == ".yaml":
            content = {name: value for name, value in content.items() if name not in PRIVATE_SETTINGS}
        content = without_paths(content)
        if file.suffix == ".yaml":
            text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        else:
            text = json_text(content)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise HubError(f"{file} is not as Chatformer writes it: {first_line(error)}") from error
    return without_places(text, file).encode()


def with_samples_of(line: dict[str, Any], questions: Collection[str]) -> dict[str, Any]:
    """A line of a log without the conversations that have none of the questions."""
    samples = [sample for sample in samples_in(line) if sample["source"] in questions]
    others = {name: value for name, value in line.items() if name != "samples"}
    return others | ({"samples": samples} if samples else {})


def with_own_code(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that names the code in its own folder, not in the repository that it was loaded from."""
    auto_map = {name: entry.rpartition("--")[2] for name, entry in config.get("auto_map", {}).items()}
    pipelines = {
        task: {**pipeline, "impl": pipeline["impl"].rpartition("--")[2]}
        for task, pipeline in config.get("custom_pipelines", {}).items()
    }
    return {name: value for name, value in config.items() if name != "_name_or_path"} | {
        "auto_map": auto_map,
        "custom_pipelines": pipelines,
    }


def check_complete(folder: str, bundle: Bundle) -> None:
    """Raise a `HubError` that names the file that another user would miss."""
    if WEIGHTS_INDEX_FILE in bundle:
        ModelFolder(folder, Path(folder)).weight_files()
    elif WEIGHTS_FILE not in bundle:
        raise HubError(
            f"The folder {folder} has no weights: {WEIGHTS_FILE} is missing, and pickles are not published. "
            "Give the folder of a finished training, or write one with model.save_pretrained(...)."
        )
    if not {TOKENIZER_FILE, SENTENCEPIECE_FILE} & set(bundle):
        raise HubError(f"The folder {folder} has no tokenizer: write it there with tokenizer.save_pretrained(...).")
    config = read_structure(Path(folder) / CONFIG_FILE)
    if config.get("model_type") not in MODELS:
        raise HubError(
            f"{folder} must hold a Chatformer model, but its {CONFIG_FILE} says {config.get('model_type')!r}. "
            "Publish any other model by its own push_to_hub(...)."
        )
    entries = [
        *config.get("auto_map", {}).values(),
        *(pipeline["impl"] for pipeline in config.get("custom_pipelines", {}).values()),
    ]
    modules = {f"{entry.rpartition('--')[2].partition('.')[0]}.py" for entry in entries}
    missing = sorted(modules - set(bundle)) if modules else [f"auto_map in {CONFIG_FILE}"]
    if missing:
        raise HubError(
            f"The folder {folder} lacks the code that its {CONFIG_FILE} names ({', '.join(missing)}): load the "
            "model and save it again with this version of Chatformer."
        )


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write the files of a bundle into a folder."""
    for name, content in bundle.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_bytes(content)


def size_of(content: Path | bytes) -> int:
    """The size of a file that travels, in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size
