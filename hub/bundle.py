"""
What of a model's folder travels: an allow-list, and the same text without what is of the author's machine.

What is not named here stays at home: pickles (`training_args.bin`, `.pt`), checkpoints with their optimizer states,
caches, notes, whatever else lies in the folder.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

import yaml
from transformers.dynamic_module_utils import get_relative_import_files

from chatformer.loading import TOKENIZER, WEIGHTS, Checkpoint

from .errors import HubError, first_line
from .loading import loading

LOG = "training_log.jsonl"
RECORDS = (
    "training_settings.yaml",
    "training_record.json",
    LOG,
    "evaluation.json",
    "conversion.json",
)
PLOTS = ("*.png",)
CARD = "README.md"
CURVES = "training_curves.png"

MODEL_SOURCE = resources.files("chatformer") / "modeling_chatformer.py"
# By name, so that no other script of the author's travels. `save_pretrained` copies the same files.
CODE = tuple(
    sorted({"modeling_chatformer.py", *(Path(file).name for file in get_relative_import_files(str(MODEL_SOURCE)))})
)

FORMER_CODE = {"next_token.py": "fast_decoding.py", "products.py": "fast_products.py"}
"""Code that earlier versions wrote, each with its successor. It travels only with the code that imports it."""

EVALUATION = (
    "exchanges",
    "figures",
    "baselines",
    "signatures",
    "settings",
    "weights_sha256",
    "data",
    "training_data",
    "environment",
)
"""What of `evaluation.json` travels: all but the conversations themselves, which may be private."""

OWN_SETTINGS = ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_samples")
"""What a published recipe leaves out: where it was published is not for those who run it again."""

REPLACED = ("config.json", "generation_config.json", *WEIGHTS, *TOKENIZER, *CODE, *FORMER_CODE, *RECORDS)
"""What a push replaces as a whole: of these, a repository keeps no file that the folder no longer has."""

PATH = re.compile(r"/|~\w*/|\.\.?/|file:|[A-Za-z]:[\\/]|\\\\")
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
TEXT_ENDINGS = (".json", ".jsonl", ".yaml", ".py", ".jinja", ".md", ".txt")

Bundle = dict[str, Path | bytes]
"""Each file by its path in the repository: where it lies, or what it holds."""


def gather(folder: str, questions: Collection[str] = ()) -> Bundle:
    """
    Return what of a model's folder travels, without its card; raise a `HubError` where it is no whole model.

    Of the conversations in the log, only those with one of the `questions` travel.
    """
    root = Path(folder)
    if not root.is_dir():
        raise HubError(f"There is no folder {folder}.")
    if not (root / "config.json").is_file():
        raise HubError(f"The folder {folder} holds no model: it has no config.json.")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_file())
    names = [name for name in names if FORMER_CODE.get(name) not in names]
    bundle: Bundle = {
        name: root / name for name in names if any(fnmatchcase(name, pattern) for pattern in (*REPLACED, *PLOTS))
    }
    for name in bundle:
        if name in ("config.json", *RECORDS):
            bundle[name] = rewritten(root / name, questions)
    check_whole(folder, bundle)
    for name, content in bundle.items():
        check_no_token(name, content)
    return bundle


def rewritten(file: Path, questions: Collection[str]) -> bytes:
    """Return a configuration that names its own code alone, or a run's record without what is the author's alone."""
    if file.name == LOG:
        lines = [with_samples_of(line, questions) for line in read_log(file)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return without_places(text, file).encode()
    content = read_structure(file)
    try:
        if file.name == "config.json":
            content = with_own_code(content)
        elif file.name == "evaluation.json":
            content = {name: content[name] for name in EVALUATION if name in content}
        elif file.suffix == ".yaml":
            content = {name: value for name, value in content.items() if name not in OWN_SETTINGS}
        content = without_paths(content)
        if file.suffix == ".yaml":
            text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        else:
            text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise HubError(f"{file} is not as Chatformer writes it: {first_line(error)}") from error
    return without_places(text, file).encode()


def read_text(file: Path) -> str:
    """Return a file's text; raise a `HubError` that names one that has none."""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HubError(f"{file} could not be read: {first_line(error)}") from error


def read_structure(file: Path) -> dict[str, Any]:
    """Return what a JSON or YAML file holds; raise a `HubError` that names a broken one."""
    text = read_text(file)
    try:
        content = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise HubError(f"{file} could not be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise HubError(f"{file} must hold names and values, but it holds a {type(content).__name__}.")
    return content


def read_log(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a training log; of one that is torn, what was written whole."""
    lines = []
    # Not by splitlines(), for which a line may also end within what somebody said.
    for text in read_text(file).split("\n") if file.is_file() else []:
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def samples_in(line: dict[str, Any]) -> list[dict[str, str]]:
    """Return the conversations in a line of a log, each with its source and the reply."""
    samples = line.get("samples")
    return [
        {name: sample[name] for name in ("source", "reply")}
        for sample in (samples if isinstance(samples, list) else [])
        if isinstance(sample, dict) and all(isinstance(sample.get(name), str) for name in ("source", "reply"))
    ]


def with_samples_of(line: dict[str, Any], questions: Collection[str]) -> dict[str, Any]:
    """Return a line of a log with the conversations that have one of the questions, and no others."""
    kept = [sample for sample in samples_in(line) if sample["source"] in questions]
    return {name: value for name, value in line.items() if name != "samples"} | ({"samples": kept} if kept else {})


def with_own_code(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose code is that beside it, not that of the repository which it once came from."""
    auto_map = {name: entry.rpartition("--")[2] for name, entry in config.get("auto_map", {}).items()}
    pipelines = {
        task: {**pipeline, "impl": pipeline["impl"].rpartition("--")[2]}
        for task, pipeline in config.get("custom_pipelines", {}).items()
    }
    return {name: value for name, value in config.items() if name != "_name_or_path"} | {
        "auto_map": auto_map,
        "custom_pipelines": pipelines,
    }


def without_paths(value: Any) -> Any:
    """Return a structure in which each path of this machine has become its last part."""
    if isinstance(value, Mapping):
        return {
            name: last_part(inner) if name == "output_dir" and inner else without_paths(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str):
        return public_name(value)
    return value


def public_name(text: str) -> str:
    """Return a text, but of a path its last part, and of a URL neither a password nor a query, which may hold one."""
    if text.lower().startswith(("http://", "https://")):
        url = urlsplit(text)
        return f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"
    # A path that is relative looks like a data set's id, unless something lies there or a file's ending tells.
    is_path = PATH.match(text) or ("/" in text and " " not in text and (os.path.exists(text) or Path(text).suffix))
    return last_part(text) if is_path else text


def last_part(path: str) -> str:
    return PureWindowsPath(path.rstrip("/\\")).name


def without_places(text: str, file: Path) -> str:
    """Return a text in which no path into the author's home, or to where the command runs, stands in a sentence."""
    folder = file.resolve().parent
    places = {str(place) for place in (Path.home(), Path.cwd(), folder, folder.parent)} - {"/"}
    for place in sorted(places, key=len, reverse=True):
        text = re.sub(rf"{re.escape(place)}/([^\s\"']*/)?", "", text)
    return text


def check_whole(folder: str, bundle: Bundle) -> None:
    """Raise a `HubError` that says what a stranger would miss."""
    weights = {name for name in bundle if name.endswith(".safetensors")}
    if "model.safetensors.index.json" in bundle:
        with loading():
            Checkpoint(folder, Path(folder)).weight_files()
    elif "model.safetensors" not in weights:
        raise HubError(
            f"The folder {folder} has no weights: model.safetensors is missing, and pickles never travel. "
            "Give the folder of a finished training, or write one with model.save_pretrained(...)."
        )
    if not {"tokenizer.json", "source.spm"} & set(bundle):
        raise HubError(f"The folder {folder} has no tokenizer: write it there with tokenizer.save_pretrained(...).")
    config = read_structure(Path(folder) / "config.json")
    if config.get("model_type") != "chatformer":
        raise HubError(
            f"{folder} must hold a Chatformer model, but its config.json says {config.get('model_type')!r}. "
            "Its own push_to_hub(...) publishes any other."
        )
    entries = [
        *config.get("auto_map", {}).values(),
        *(pipeline["impl"] for pipeline in config.get("custom_pipelines", {}).values()),
    ]
    modules = {f"{entry.rpartition('--')[2].partition('.')[0]}.py" for entry in entries}
    lost = sorted(modules - set(bundle)) if modules else ["auto_map in config.json"]
    if lost:
        raise HubError(
            f"The folder {folder} lacks the code that its config.json has a stranger load the model with "
            f"({', '.join(lost)}): load the model and save it anew with this version of Chatformer."
        )


def check_no_token(name: str, content: Path | bytes) -> None:
    """Raise a `HubError` where a text holds an access token."""
    if not name.endswith(TEXT_ENDINGS):
        return
    text = content if isinstance(content, bytes) else content.read_bytes()
    found = TOKEN.search(text)
    if found:
        line = text.count(b"\n", 0, found.start()) + 1
        raise HubError(f"{name} holds what looks like an access token in line {line}: take it out, and revoke it.")


def size_of(content: Path | bytes) -> int:
    """Return the bytes of a file that travels."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size
