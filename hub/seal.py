"""The checksum in the last line of a card, by which a person's edit is recognised and never overwritten."""

import hashlib
import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, RepoCard

from chatformer.storage.names import CARD_FILE

from .errors import HubError
from .privacy import check_no_token

SEAL = re.compile(r"\n<!-- written by chatformer push, ([0-9a-f]{64}) -->\n$")
PINNED = re.compile(r'revision="([0-9a-f]{40})"')
WRITTEN_BY_TRANSFORMERS = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)


def sealed(text: str) -> bytes:
    """A card with the checksum of its text as the last line."""
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return f"{text}\n<!-- written by chatformer push, {hashlib.sha256(text.encode()).hexdigest()} -->\n".encode()


def is_ours(card: bytes) -> bool:
    """True if Chatformer or transformers wrote a card, and no person has edited it."""
    text = card.decode("utf-8", errors="replace")
    seal = SEAL.search(text)
    if seal is None:
        if WRITTEN_BY_TRANSFORMERS not in text:
            return False
        # The author may have begun to fill it in.
        stock = ModelCard.from_template(ModelCardData(), model_description=WRITTEN_BY_TRANSFORMERS)
        return RepoCard(text, ignore_metadata_errors=True).text.strip() == stock.text.strip()
    return hashlib.sha256(text[: seal.start()].encode()).hexdigest() == seal[1]


def pinned_commit(card: bytes) -> str | None:
    """The commit that a card says to load."""
    pin = PINNED.search(card.decode("utf-8", errors="replace"))
    return pin[1] if pin else None


def own_card(folder: str) -> bytes | None:
    """The card of a folder if a person wrote or edited it; raise a `HubError` if it may not be published."""
    file = Path(folder) / CARD_FILE
    if not file.is_file():
        return None
    card = file.read_bytes()
    check_no_token(file.name, card)
    try:
        card.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{file} must be UTF-8 text, but it is not: {error}") from error
    return None if is_ours(card) else card
