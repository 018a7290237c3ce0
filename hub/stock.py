"""The stock `push_to_hub` of a model, with Chatformer's card and the record of the training in the same commit."""

import filecmp
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils.hub import create_and_tag_model_card

from .bundle import CARD, check_no_token
from .card import Records, is_ours
from .pushing import Publication
from .repositories import PULL_REQUEST
from .settings import PushSettings


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
) -> CommitInfo:
    """Push a model as `PreTrainedModel.push_to_hub` does, but completed by `complete`."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    all_tags = [*(model.model_tags or ()), *((tags,) if isinstance(tags, str) else tags or ())]
    credential: Any = token
    card = create_and_tag_model_card(repo_id, list(dict.fromkeys(all_tags)) or None, token=credential)
    if revision is not None and not revision.startswith(PULL_REQUEST):
        try:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        except HfHubHTTPError as error:
            # Who may only propose may not make branches; the branch may exist.
            if not (create_pr and error.response.status_code == 403):
                raise
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        card.save(Path(folder, CARD))
        complete(model.name_or_path, folder, repo_id, revision)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or f"Upload {type(model).__name__}",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def complete(origin: str, folder: str | os.PathLike[str], repo_id: str, revision: str | None = None) -> None:
    """
    Put beside a saved model what it lacks of what `chatformer push` publishes, and its card in the stock one's place.

    `origin` is what it was loaded from. A folder's record is of the weights that lie there, and of no others: a model
    that has learnt since has a card of its configuration alone. A card that a person has written or edited stays. No
    questions of the validation data travel, as nobody was asked about them.
    """
    root, source = Path(folder), Path(origin)
    if not (root / "config.json").is_file():
        # An adapter, whose card tells of another library.
        return
    if has_record(source) and have_the_same_weights(source, root):
        publication = Publication.prepare(PushSettings(model=origin, repo=repo_id, samples=False))
    else:
        publication = Publication(
            bundle={}, records=Records.read(root), samples=(), languages=(), license=None, kept_card=None
        )
    for name, content in publication.bundle.items():
        # The code is what save_pretrained wrote; an earlier version's files may lie in the origin.
        if (root / name).exists() or name.endswith(".py"):
            continue
        if isinstance(content, Path):
            shutil.copyfile(content, root / name)
        else:
            (root / name).write_bytes(content)
    card = root / CARD
    stock = card.read_bytes() if card.is_file() else None
    if publication.kept_card is None and stock is not None and not is_ours(stock):
        return
    tags = (ModelCard(stock.decode()).data.get("tags") or []) if stock is not None else []
    card.write_bytes(publication.card(repo_id, revision or "main", tags))
    check_no_token(CARD, card)


def has_record(folder: Path) -> bool:
    """Return whether a folder holds the record of a training or of a conversion, and a tokenizer to try the model."""
    names = {path.name for path in folder.glob("*")}
    return bool(names & {"training_record.json", "conversion.json"}) and bool(names & {"tokenizer.json", "source.spm"})


def have_the_same_weights(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same weights."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    if names != sorted(path.name for path in other.glob("*.safetensors")):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
