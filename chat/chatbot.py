"""A model and a conversation with it."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chatformer.conversation import encode_conversation
from chatformer.storage.model_folder import WHOLE_WEIGHTS, Checkpoint, CheckpointError

from .engines import CTranslate2Engine, Engine, TransformersEngine
from .errors import ModelNotFound
from .settings import EngineName, ReplySettings

Message = dict[str, str]


class Chatbot:
    """What computes replies and its tokenizer, which together answer conversations."""

    def __init__(self, engine: Engine, tokenizer: Any, checkpoint: Checkpoint):
        self.engine = engine
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        """What both were loaded from."""

    @classmethod
    def from_pretrained(
        cls, name: str, *, engine: EngineName = "transformers", revision: str | None = None, device: str | None = None
    ) -> "Chatbot":
        """Load the model of a folder or of the Hub; raise `ModelNotFound` where there is none that can be loaded."""
        try:
            if engine == "ctranslate2":
                checkpoint = Checkpoint(name, Path(name))
                translator = CTranslate2Engine(checkpoint.folder, device=device)
                return cls(translator, conversing_tokenizer(checkpoint, vocab_size=len(translator.tokens)), checkpoint)
            checkpoint = Checkpoint.find(name, revision)
            if checkpoint.has("model.bin") and not checkpoint.has(WHOLE_WEIGHTS):
                raise ModelNotFound(f"The folder {name} holds a model of CTranslate2: add --engine ctranslate2.")
            model = checkpoint.model()
            tokenizer = conversing_tokenizer(checkpoint, vocab_size=model.config.vocab_size)
            return cls(TransformersEngine(model, device=device), tokenizer, checkpoint)
        except CheckpointError as error:
            raise ModelNotFound(str(error)) from error

    @property
    def max_source_tokens(self) -> int | None:
        """Longest source that the model was trained on, or None where its tokenizer does not say."""
        longest = self.tokenizer.model_max_length
        return longest if longest < 10**9 else None

    def reply(
        self, messages: Sequence[Message], settings: ReplySettings, on_text: Callable[[str], None] | None = None
    ) -> str:
        """
        Return the reply to a conversation that ends with a user's message.

        `on_text` is called with each piece of the reply as soon as it is there.
        """
        source_ids = encode_conversation(self.tokenizer, list(messages), self.max_source_tokens)
        pieces = None if on_text is None else Pieces(self.tokenizer, on_text)
        (reply_ids,) = self.engine.generate([source_ids], settings.search(), None if pieces is None else pieces.add)
        text = self.tokenizer.decode(reply_ids, skip_special_tokens=True)
        if pieces is not None:
            pieces.tell(text)
        return text


def conversing_tokenizer(checkpoint: Checkpoint, *, vocab_size: int) -> Any:
    """Return a model's tokenizer; raise `ModelNotFound` where it does not know how to converse."""
    tokenizer = checkpoint.tokenizer(vocab_size=vocab_size)
    if tokenizer.chat_template is None:
        raise ModelNotFound(
            f"The tokenizer of {checkpoint.name} has no chat template, so it is not known how it converses."
        )
    return tokenizer


def turn(role: str, text: str) -> Message:
    """Return what was said as a message; text for training is composed likewise, and a keyboard or file may not be."""
    return {"role": role, "content": unicodedata.normalize("NFC", text)}


class Pieces:
    """Turns tokens into pieces of text as they come, but never half a character."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        self.tokenizer = tokenizer
        self.on_text = on_text
        self.ids: list[int] = []
        self.told = ""

    def add(self, token: int) -> None:
        """Take the next token, and tell what is new if it is certain."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        # A run of bytes such as "<0xEA>" is read as a whole: as long as it goes on, what it says may still change.
        if not (
            self.tokenizer.convert_ids_to_tokens(token).startswith("<") or text.endswith("\N{REPLACEMENT CHARACTER}")
        ):
            self.tell(text)

    def tell(self, text: str) -> None:
        """Tell what of `text` was not told yet."""
        if len(text) > len(self.told):
            self.on_text(text[len(self.told) :])
            self.told = text


class Conversation:
    """What was said so far between a user and a chatbot."""

    def __init__(self, chatbot: Chatbot, system: str | None = None):
        self.chatbot = chatbot
        self.system = system
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.messages: list[Message] = []
        if self.system:
            self.messages.append(turn("system", self.system))

    def say(self, text: str, settings: ReplySettings, on_text: Callable[[str], None] | None = None) -> str:
        """Say something and return the reply; both are kept, unless the reply is interrupted."""
        asked = turn("user", text.strip())
        reply = self.chatbot.reply([*self.messages, asked], settings, on_text)
        self.messages += [asked, {"role": "assistant", "content": reply}]
        return reply
