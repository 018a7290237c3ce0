"""A model and a conversation with it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from chatformer.configuration.replies import EngineName, ReplySettings
from chatformer.conversation import Message, encode_conversation, max_source_tokens, normalized_text, turn
from chatformer.reading import reads_history
from chatformer.storage.explaining import StorageError
from chatformer.storage.model_folder import ModelFolder
from chatformer.storage.names import CTRANSLATE2_FILE, WEIGHTS_FILE

from .engines import CTranslate2Engine, Engine, TransformersEngine
from .engines.engine import DEFAULTS
from .errors import ModelNotFound
from .streaming import Pieces

# Kana and the characters of Chinese, and their punctuation.
NO_SPACES = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff01-\uff0f]{2}")


class Answer(NamedTuple):
    """A reply, with what the model read and wrote."""

    source_ids: list[int]
    reply_ids: list[int]
    text: str


class Chatbot:
    """An engine and a tokenizer that answer conversations."""

    def __init__(self, engine: Engine, tokenizer: Any, folder: ModelFolder):
        self.engine = engine
        self.tokenizer = tokenizer
        self.folder = folder
        """What engine and tokenizer were loaded from."""

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        engine: EngineName = "transformers",
        revision: str | None = None,
        device: str | None = None,
        num_parallel: int = 1,
    ) -> "Chatbot":
        """Load the model of a folder or of the Hub; raise `ModelNotFound` if it cannot be loaded."""
        try:
            if engine == "ctranslate2":
                folder = ModelFolder(name, Path(name))
                translator = CTranslate2Engine(folder.folder, device=device, num_parallel=num_parallel)
                return cls(translator, conversing_tokenizer(folder, vocab_size=len(translator.tokens)), folder)
            folder = ModelFolder.find(name, revision)
            if folder.has(CTRANSLATE2_FILE) and not folder.has(WEIGHTS_FILE):
                raise ModelNotFound(f"The folder {name} holds a model of CTranslate2: add --engine ctranslate2.")
            model = folder.model()
            tokenizer = conversing_tokenizer(folder, vocab_size=model.config.vocab_size)
            return cls(TransformersEngine.on(device, model, tokenizer), tokenizer, folder)
        except StorageError as error:
            raise ModelNotFound(str(error)) from error

    @property
    def max_source_tokens(self) -> int | None:
        """The longest source that the model was trained on, or None if its tokenizer does not say."""
        return max_source_tokens(self.tokenizer)

    @property
    def reads_history(self) -> bool:
        """True if the model reads what was said before the last question."""
        return reads_history(self.tokenizer)

    def cuts(self, text: str) -> bool:
        """True if even a question alone is longer than what the model was trained on, so that its beginning is cut."""
        longest = self.max_source_tokens
        return longest is not None and len(encode_conversation(self.tokenizer, [turn("user", text)])) > longest

    def own(self, name: str) -> float:
        """What a setting of `ReplySettings` is while it is left to the model."""
        search = self.engine.own_search
        if name == "temperature" and not search.do_sample:
            return 0
        if name == "max_new_tokens":
            return self.engine.max_new_tokens
        value = getattr(search, name)
        return DEFAULTS[name] if value is None else value

    def reply(
        self, messages: Sequence[Message], settings: ReplySettings, on_text: Callable[[str], None] | None = None
    ) -> str:
        """
        The reply to a conversation that ends with a user's message.

        `on_text` is called with each piece of the reply as soon as it is known.
        """
        return self.answer(messages, settings, on_text).text

    def answer(
        self, messages: Sequence[Message], settings: ReplySettings, on_text: Callable[[str], None] | None = None
    ) -> Answer:
        """The reply, as `reply` gives it, with the ids that the model read and wrote."""
        source_ids = encode_conversation(self.tokenizer, list(messages), self.max_source_tokens)
        pieces = None if on_text is None else Pieces(self.tokenizer, on_text)
        on_token = None if pieces is None else lambda _, token: pieces.add(token)
        (reply_ids,) = self.engine.generate([source_ids], settings.search(), on_token)
        text = self.tokenizer.decode(reply_ids, skip_special_tokens=True)
        if pieces is not None:
            pieces.end(text)
        return Answer(source_ids, reply_ids, text)


def conversing_tokenizer(folder: ModelFolder, *, vocab_size: int) -> Any:
    """A model's tokenizer; raise `ModelNotFound` if it has no chat template."""
    tokenizer = folder.tokenizer(vocab_size=vocab_size)
    if tokenizer.chat_template is None:
        raise ModelNotFound(
            f"The tokenizer of {folder.name} has no chat template, which would say how it reads a conversation."
        )
    return tokenizer


def joined(text: str, continuation: str) -> str:
    """A text that goes on, with a space between unless its script has none."""
    return text + continuation if NO_SPACES.search(text[-1:] + continuation[:1]) else f"{text} {continuation}".strip()


class Replier(Protocol):
    """What a conversation is held with: a `Chatbot`, or a server."""

    @property
    def reads_history(self) -> bool: ...

    def reply(
        self, messages: Sequence[Message], settings: ReplySettings, on_text: Callable[[str], None] | None = None
    ) -> str: ...


class Conversation:
    """The messages so far between a user and a chatbot."""

    def __init__(self, chatbot: Replier, system: str | None = None):
        self.chatbot = chatbot
        self.system = normalized_text(system or "")
        self.reset()

    def reset(self) -> None:
        """Forget all messages but the system's."""
        self.messages: list[Message] = []
        if self.system:
            self.messages.append(turn("system", self.system))

    @property
    def has_replied(self) -> bool:
        """True if there is a reply, which can go on."""
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def more(self, settings: ReplySettings, on_text: Callable[[str], None] | None = None) -> str:
        """
        Have the last reply go on: what was said last and all of its reply are the prompt.

        A model that answers says its reply again, which is not kept.
        """
        assert self.has_replied
        *before, question, reply = self.messages
        prompt = turn("user", joined(question["content"], reply["content"]))
        continuation = self.chatbot.reply([*before, prompt], settings, on_text)
        if continuation != reply["content"]:
            self.messages[-1] = turn("assistant", joined(reply["content"], continuation))
        return continuation

    def say(self, text: str, settings: ReplySettings, on_text: Callable[[str], None] | None = None) -> str:
        """Say something and get the reply; both are kept, unless the reply is interrupted."""
        question = turn("user", text)
        reply = self.chatbot.reply([*self.messages, question], settings, on_text)
        self.messages += [question, {"role": "assistant", "content": reply}]
        return reply
