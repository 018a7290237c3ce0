"""What the stock `push_to_hub` of a model takes along: its card, and the record of the training that made it."""

import filecmp
import os
import shutil
from pathlib import Path

from huggingface_hub import ModelCard

from .bundle import CARD, check_no_token
from .card import Records, is_ours
from .pushing import Publication
from .settings import PushSettings


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
        if (root / name).exists():
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
