"""`chatformer space`: a web page to talk to a model, for Hugging Face Spaces and for a computer at home."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from .errors import HubError, as_hub_error
from .settings import SpaceSettings

if TYPE_CHECKING:
    from chatformer.storage.run_folder import Records

    from .bundle import Bundle

MAX_EXAMPLES = 6
MODEL_FOLDER = "model"
DESCRIPTIONS = {
    "en": (
        "The Transformer of “Attention Is All You Need”, small and trained from scratch on conversations.",
        "The Transformer of “Attention Is All You Need”, small.",
        "It repeats what it has learnt, and may be wrong or rude.",
    ),
    "ko": (
        "논문 “Attention Is All You Need”의 트랜스포머를 처음부터 대화로 학습시킨 작은 챗봇입니다.",
        "논문 “Attention Is All You Need”의 트랜스포머로 만든 작은 챗봇입니다.",
        "배운 말을 되풀이하며, 틀리거나 무례한 말을 할 수 있습니다.",
    ),
}
"""By language: the text for a model with a record of its training, for any other, and for both."""
PLACEHOLDERS = {"en": "Say something…", "ko": "말을 걸어 보세요…"}


def main(arguments: Sequence[str], program: str = "chatformer space") -> int:
    """Write a Space as the command line says; return the exit status."""
    settings = tyro.cli(SpaceSettings, args=list(arguments), prog=program)
    try:
        space(settings)
    except HubError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


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
        check_name(settings.repo)
    if Path(settings.model).is_dir():
        model = local_model(settings.model)
    else:
        model = hub_model(settings.model, settings.revision)
    bundle = space_files(model, settings.title or model.name, samples=settings.samples)
    with whole_folder(settings.output_dir) as folder:
        write_bundle(bundle, folder)
    print(f"Written: {settings.output_dir}", file=sys.stderr)
    if settings.repo is None:
        print(
            f"Try it with\n    cd {settings.output_dir} && pip install -r requirements.txt && python app.py",
            file=sys.stderr,
        )
        return
    print(push_space(Repository(settings.repo, kind="space"), bundle, private=settings.private))


def local_model(folder: str) -> SpaceModel:
    """The model of a folder, to be copied: the files that a push would publish, except records and pictures."""
    from chatformer.storage.names import RECORD_FILES
    from chatformer.storage.run_folder import Records

    from .bundle import gather

    left_out = (*RECORD_FILES, "*.png")
    files = {
        f"{MODEL_FOLDER}/{name}": content
        for name, content in gather(folder).items()
        if not any(Path(name).match(pattern) for pattern in left_out)
    }
    return SpaceModel(name=Path(folder).absolute().name, records=Records.read(Path(folder)), files=files)


def hub_model(name: str, revision: str | None) -> SpaceModel:
    """A model on the Hub, at the commit of a revision now."""
    from huggingface_hub import HfApi, snapshot_download

    from chatformer.storage.explaining import first_line, refusal_by
    from chatformer.storage.names import CONFIG_FILE
    from chatformer.storage.run_folder import Records

    try:
        commit = HfApi().model_info(name, revision=revision).sha
        folder = snapshot_download(name, revision=commit, allow_patterns=[CONFIG_FILE, "training_*.*"])
    # The name, the network or the Hub may be the reason.
    except Exception as error:
        said = refusal_by(error, f"{HfApi().endpoint}/{name}") or first_line(error)
        raise HubError(f"There is no folder {name}, and the Hub gave no model {name}: {said}") from error
    records = Records.read(Path(folder))
    if records.config.get("model_type") != "chatformer":
        raise HubError(
            f"{name} must be a Chatformer model, but its {CONFIG_FILE} says {records.config.get('model_type')!r}."
        )
    return SpaceModel(name=name.rpartition("/")[2], records=records, files={}, repo_id=name, commit=commit)


def space_files(model: SpaceModel, title: str, *, samples: bool = True) -> "Bundle":
    """The files of a Space, by their paths in it."""
    import jinja2

    from .card import GREETINGS, languages_of, license_of, questions_of

    known = [name for name in languages_of(model.records) if name in DESCRIPTIONS]
    spoken = list(dict.fromkeys([*known, "en"]))
    questions = questions_of(model.records) if samples else []
    examples = list(dict.fromkeys([*(GREETINGS[name] for name in known or spoken), *questions]))
    # A converted model was trained elsewhere, on unknown data.
    was_trained_here = bool(model.records.record)
    descriptions = []
    for name in spoken:
        trained, other, warning = DESCRIPTIONS[name]
        descriptions.append(f"{trained if was_trained_here else other} {warning}")
    facts: dict[str, Any] = {
        "title": title,
        "repo_id": model.repo_id,
        "revision": model.commit,
        "license_id": license_of(model.records),
        "description": "\n\n".join(descriptions),
        "was_trained_here": was_trained_here,
        "placeholder": PLACEHOLDERS[spoken[0]],
        "examples": examples[:MAX_EXAMPLES],
    }
    environment = jinja2.Environment(keep_trailing_newline=True)
    environment.filters["literal"] = repr
    files: Bundle = dict(model.files)
    for file in resources.files("chatformer.hub").joinpath("space_template").iterdir():
        text = file.read_text("utf-8")
        if file.name.endswith(".jinja"):
            text = environment.from_string(text).render(facts)
        files[file.name.removesuffix(".jinja")] = text.encode()
    return files


def push_space(repository: Any, bundle: "Bundle", *, private: bool) -> str:
    """Push a Space in one commit; return its URL."""
    from .repositories import changed, outdated

    repository.prepare(private=private, revision="main", space_sdk="gradio")
    head, remote = repository.files("main")
    new = changed(bundle, remote)
    old = outdated(bundle, remote, [f"{MODEL_FOLDER}/*"])
    if new or old:
        repository.commit(
            new, deletions=old, parent=head, revision="main", message="Upload a Chatformer Space", create_pr=False
        )
    else:
        print("Nothing to do: the Space has all of it already.", file=sys.stderr)
    return repository.url
