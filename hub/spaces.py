"""`chatformer space`: a web page to talk to a model, on Hugging Face Spaces or at home."""

import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatformer.configuration.sharing import SpaceSettings

from .errors import HubError, as_hub_error

if TYPE_CHECKING:
    from chatformer.storage.run_folder import Records

    from .bundle import Bundle

MAX_EXAMPLES = 6
MODEL_FOLDER = "model"
DESCRIPTIONS = {
    "en": (
        "The {architecture}, small and trained from scratch on conversations.",
        "The {architecture}, small.",
        "It repeats what it has learnt, and may be wrong or rude.",
    ),
    "ko": (
        "{architecture}를 처음부터 대화로 학습시킨 작은 챗봇입니다.",
        "{architecture}로 만든 작은 챗봇입니다.",
        "배운 말을 되풀이하며, 틀리거나 무례한 말을 할 수 있습니다.",
    ),
}
"""By language: a text for a model with a record of its training, one for any other model, and one for both."""
ROOMS = ("configuration", "storage", "chat")
"""What the page needs of Chatformer, besides the model."""
ARCHITECTURES = {
    "chatformer": {
        "en": "Transformer of “Attention Is All You Need”",
        "ko": "논문 “Attention Is All You Need”의 트랜스포머",
        "short": "Transformer",
    },
    "ensemble": {
        "en": "ensemble of Transformers of “Attention Is All You Need”",
        "ko": "논문 “Attention Is All You Need”의 트랜스포머 여러 개",
        "short": "ensemble of Transformers",
    },
    "bahdanau": {
        "en": "recurrent encoder-decoder that came before the Transformer",
        "ko": "트랜스포머보다 먼저 나온 순환 신경망 인코더-디코더",
        "short": "recurrent network",
    },
}
"""By `model_type`, the names of the architecture in the descriptions."""


@dataclass(frozen=True, kw_only=True)
class SpaceModel:
    """The model of a Space: copied into it as `files`, or loaded from the Hub at a commit."""

    name: str
    records: "Records"
    files: "Bundle"
    repo_id: str | None = None
    commit: str | None = None


@as_hub_error()
def space(settings: SpaceSettings) -> None:
    """Write a Space's folder, push it if a repository is given, and print what to do next."""
    from chatformer.storage.writing import check_new_or_empty, whole_folder

    from .bundle import write_bundle
    from .repositories import Repository, check_name

    check_new_or_empty(settings.output_dir)
    if settings.repo is not None:
        check_name(settings.repo, flag="--repo")
    if Path(settings.model).is_dir():
        model = local_model(settings.model)
    else:
        model = hub_model(settings.model, settings.revision)
    bundle = space_files(model, settings.title or model.name, samples=settings.hub_samples)
    with whole_folder(settings.output_dir) as folder:
        write_bundle(bundle, folder)
    print(f"Written: {settings.output_dir}", file=sys.stderr)
    if settings.repo is None:
        print(
            f"Try it with\n    cd {settings.output_dir} && pip install -r requirements.txt && python app.py",
            file=sys.stderr,
        )
        return
    print(push_space(Repository(settings.repo, kind="space"), bundle, private=settings.hub_private_repo))


def local_model(folder: str) -> SpaceModel:
    """The model of a folder, to be copied: the files that a push would publish, except records and pictures."""
    from chatformer.storage.names import PICTURES, RECORD_FILES
    from chatformer.storage.run_folder import Records

    from .bundle import gather

    patterns = (PICTURES, *RECORD_FILES)
    files = {
        f"{MODEL_FOLDER}/{name}": content
        for name, content in gather(folder).items()
        if not any(Path(name).match(pattern) for pattern in patterns)
    }
    return SpaceModel(name=Path(folder).absolute().name, records=Records.read(Path(folder)), files=files)


def hub_model(name: str, revision: str | None) -> SpaceModel:
    """A model on the Hub, at the present commit of a revision."""
    from huggingface_hub import HfApi, snapshot_download

    from chatformer.storage.explaining import no_model
    from chatformer.storage.model_folder import ModelFolder
    from chatformer.storage.names import CONFIG_FILE, LOG_FILE, RECORD_FILE, SETTINGS_FILE
    from chatformer.storage.run_folder import Records

    files = [CONFIG_FILE, SETTINGS_FILE, RECORD_FILE, LOG_FILE]
    try:
        commit = HfApi().model_info(name, revision=revision).sha
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=files))
    # The name, the network or the Hub may be the reason.
    except Exception as error:
        raise HubError(no_model(error, name)) from error
    if not (folder / CONFIG_FILE).is_file():
        raise HubError(f"{name} holds no model: it has no {CONFIG_FILE}.")
    # Raises an error unless it is a Chatformer.
    ModelFolder(name, folder).config()
    records = Records.read(folder)
    return SpaceModel(name=name.rpartition("/")[2], records=records, files={}, repo_id=name, commit=commit)


def space_files(model: SpaceModel, title: str, *, samples: bool = True) -> "Bundle":
    """The files of a Space, by their paths in it."""
    import jinja2

    from .known_data import languages_of, license_of
    from .samples import GREETINGS, questions_of

    languages = [name for name in languages_of(model.records) if name in DESCRIPTIONS]
    # English too, for other readers of the page.
    page_languages = list(dict.fromkeys([*languages, "en"]))
    questions = questions_of(model.records) if samples else []
    examples = list(dict.fromkeys([*(GREETINGS[name] for name in languages or page_languages), *questions]))
    # A converted model was trained elsewhere, on unknown data.
    was_trained_here = bool(model.records.record)
    architecture = ARCHITECTURES[model.records.config.get("model_type", "chatformer")]
    about = {}
    for name, (trained, other, warning) in DESCRIPTIONS.items():
        description = (trained if was_trained_here else other).format(architecture=architecture[name])
        about[name] = f"{description} {warning}"
    facts: dict[str, Any] = {
        "title": title,
        "repo_id": model.repo_id,
        "revision": model.commit,
        "license_id": license_of(model.records),
        "about": about,
        "was_trained_here": was_trained_here,
        "architecture": architecture["short"],
        "examples": examples[:MAX_EXAMPLES],
    }
    environment = jinja2.Environment(keep_trailing_newline=True)
    environment.filters["literal"] = repr
    files: Bundle = dict(model.files) | code_of_page()
    for file in resources.files("chatformer.hub").joinpath("space_template").iterdir():
        text = file.read_text("utf-8")
        if file.name.endswith(".jinja"):
            text = environment.from_string(text).render(facts)
        files[file.name.removesuffix(".jinja")] = text.encode()
    return files


def code_of_page() -> "Bundle":
    """The part of Chatformer that the page runs on, as the package that it is: a Space installs none."""
    files: Bundle = {}
    rooms = [("chatformer", False), *((f"chatformer.{room}", True) for room in ROOMS)]
    while rooms:
        room, with_folders = rooms.pop()
        for entry in resources.files(room).iterdir():
            if entry.is_dir() and with_folders and entry.joinpath("__init__.py").is_file():
                rooms.append((f"{room}.{entry.name}", True))
            elif entry.name.endswith(".py"):
                files[f"{room.replace('.', '/')}/{entry.name}"] = entry.read_bytes()
    return files


def push_space(repository: Any, bundle: "Bundle", *, private: bool) -> str:
    """Push a Space in one commit; return its URL."""
    from .repositories import changed, outdated

    repository.prepare(private=private, revision="main", space_sdk="gradio")
    head, remote = repository.files("main")
    additions = changed(bundle, remote)
    deletions = outdated(bundle, remote, [f"{MODEL_FOLDER}/*", "chatformer/*"])
    if additions or deletions:
        repository.commit(
            additions,
            deletions=deletions,
            parent=head,
            revision="main",
            message="Upload a Chatformer Space",
            create_pr=False,
        )
    else:
        print("Nothing to do: the Space has all of it already.", file=sys.stderr)
    return repository.url
