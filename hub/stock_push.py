"""The stock ways to push a model, with Chatformer's card and the record of the training in the same commit."""

import filecmp
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils.hub import create_and_tag_model_card

from chatformer.configuration.sharing import PushSettings
from chatformer.storage.names import (
    CARD_FILE,
    CONFIG_FILE,
    CONVERSION_FILE,
    RECORD_FILE,
    SENTENCEPIECE_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    WEIGHTS_PARTS,
)
from chatformer.storage.run_folder import Records

from .bundle import write_bundle
from .privacy import check_no_token
from .pushing import Publication
from .repositories import PULL_REQUEST
from .seal import is_ours


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: str | Sequence[str] = (),
    save: Callable[[str], None] | None = None,
) -> CommitInfo:
    """
    Push a model as `PreTrainedModel.push_to_hub` does, with what `add_card_and_records` adds to its folder.

    `save` writes the model into a folder; `save_pretrained` unless given.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    all_tags = [*(model.model_tags or ()), *((tags,) if isinstance(tags, str) else tags or ())]
    credential: Any = token
    card = create_and_tag_model_card(repo_id, list(dict.fromkeys(all_tags)) or None, token=credential)
    if revision is not None and not revision.startswith(PULL_REQUEST):
        try:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        except HfHubHTTPError as error:
            # A token that may only propose changes may not create branches; the branch may exist already.
            if not (create_pr and error.response.status_code == 403):
                raise
    with tempfile.TemporaryDirectory() as folder:
        if save is None:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
        else:
            save(folder)
        card.save(Path(folder, CARD_FILE))
        add_card_and_records(model.name_or_path, folder, repo_id, revision)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        # Not upload_folder, which may make several commits.
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths],
            commit_message=commit_message or f"Upload {type(model).__name__}",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def add_card_and_records(
    origin: str, folder: str | os.PathLike[str], repo_id: str, revision: str | None = None
) -> None:
    """
    Add the card and records that `chatformer push` would publish to the folder of a saved model.

    `origin` is the folder or the id that the model was loaded from. Its records hold only for its weights: a model that
    was trained further gets a card of its configuration alone. The card replaces the stock one, but not one that a
    person wrote or edited. No questions of the validation data are published, since the author was not asked.
    """
    root, source = Path(folder), Path(origin)
    if not (root / CONFIG_FILE).is_file():
        # An adapter, whose card is of another library.
        return
    if has_record(source) and have_the_same_weights(source, root):
        publication = Publication.prepare(PushSettings(model=origin, hub_model_id=repo_id, hub_samples=False))
    else:
        publication = Publication(
            bundle={}, records=Records.read(root), samples=(), languages=(), license=None, kept_card=None
        )
    # `save_pretrained` wrote the code; the origin may hold that of an earlier version.
    additions = {
        name: content
        for name, content in publication.bundle.items()
        if not (name.endswith(".py") or (root / name).exists())
    }
    write_bundle(additions, root)
    card = root / CARD_FILE
    stock = card.read_bytes() if card.is_file() else None
    if publication.kept_card is None and stock is not None and not is_ours(stock):
        return
    tags = (ModelCard(stock.decode()).data.get("tags") or []) if stock is not None else []
    card.write_bytes(publication.card(repo_id, revision or "main", tags))
    check_no_token(CARD_FILE, card)


def has_record(folder: Path) -> bool:
    """True if a folder holds the record of a training or of a conversion, and a tokenizer to try the model."""
    names = {path.name for path in folder.glob("*")}
    return bool(names & {RECORD_FILE, CONVERSION_FILE}) and bool(names & {TOKENIZER_FILE, SENTENCEPIECE_FILE})


def have_the_same_weights(one: Path, other: Path) -> bool:
    """True if two folders hold the same weights."""
    names, other_names = (
        sorted(path.name for pattern in (WEIGHTS_FILE, WEIGHTS_PARTS) for path in folder.glob(pattern))
        for folder in (one, other)
    )
    return names == other_names and not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
