"""What the stock `push_to_hub` of a model publishes as well: its card, and the records of its training."""

import filecmp
import os
from pathlib import Path

from huggingface_hub import ModelCard

from chatformer.storage.names import (
    CARD_FILE,
    CONFIG_FILE,
    CONVERSION_FILE,
    RECORD_FILE,
    SENTENCEPIECE_FILE,
    TOKENIZER_FILE,
)
from chatformer.storage.run_folder import Records

from .bundle import write_bundle
from .card import is_ours
from .privacy import check_no_token
from .pushing import Publication
from .settings import PushSettings


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
        publication = Publication.prepare(PushSettings(model=origin, repo=repo_id, samples=False))
    else:
        publication = Publication(
            bundle={}, records=Records.read(root), samples=(), languages=(), license=None, kept_card=None
        )
    lacking = {name: content for name, content in publication.bundle.items() if not (root / name).exists()}
    write_bundle(lacking, root)
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
    names = sorted(path.name for path in one.glob("*.safetensors"))
    if names != sorted(path.name for path in other.glob("*.safetensors")):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
