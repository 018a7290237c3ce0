"""A model and a conversation with it, on transformers' own `generate()`."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

import chatformer  # noqa: F401  (makes its models known to AutoModelForSeq2SeqLM)
from chatformer.conversation import encode_conversation

from .settings import ReplySettings

Message = dict[str, str]


class ModelNotFound(ValueError):
    """There is no model to talk to; the message says what was looked for and what to do."""


class Chatbot:
    """A loaded model and its tokenizer, which answer conversations."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str, *, revision: str | None = None, device: str | None = None) -> "Chatbot":
        """Load the model of a folder or of the Hub; raise `ModelNotFound` where there is none."""
        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise ModelNotFound(
                f"The folder {name} holds no model: it has no config.json. Give the --output-dir of a training that "
                "has published one."
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision)
        except (OSError, ValueError) as error:
            raise ModelNotFound(f"{name} could not be loaded, as a folder or from the Hub: {error}") from error
        if tokenizer.chat_template is None:
            raise ModelNotFound(f"The tokenizer of {name} has no chat template, so it is not known how it converses.")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer)

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
        ids = encode_conversation(self.tokenizer, list(messages), self.max_source_tokens)
        input_ids = torch.tensor([ids], device=self.model.device)
        options: dict[str, Any] = {"num_beams": settings.num_beams, "repetition_penalty": settings.repetition_penalty}
        if settings.temperature > 0:
            options |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        if settings.max_new_tokens is not None:
            options["max_new_tokens"] = settings.max_new_tokens
        # A search over beams knows its reply only at the end.
        streams = on_text is not None and settings.num_beams == 1
        with torch.inference_mode():
            generated = self.model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                do_sample=settings.temperature > 0,
                streamer=PieceStreamer(self.tokenizer, on_text) if streams and on_text else None,
                **options,
            )
        text = self.tokenizer.decode(generated[0], skip_special_tokens=True)
        if on_text is not None and not streams:
            on_text(text)
        return text


class PieceStreamer(BaseStreamer):
    """Hand on each new piece of text, token by token, but never half a character."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        self.tokenizer = tokenizer
        self.on_text = on_text
        self.ids: list[int] = []
        self.told = ""

    def put(self, value: torch.Tensor) -> None:
        self.ids.extend(value.flatten().tolist())
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        last = self.tokenizer.convert_ids_to_tokens(self.ids[-1])
        # A run of bytes such as "<0xEA>" is read as a whole: as long as it goes on, what it says may still change.
        if not (last.startswith("<") or text.endswith("\N{REPLACEMENT CHARACTER}")):
            self._tell(text)

    def end(self) -> None:
        self._tell(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _tell(self, text: str) -> None:
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
            self.messages.append({"role": "system", "content": unicodedata.normalize("NFC", self.system)})

    def say(self, text: str, settings: ReplySettings, on_text: Callable[[str], None] | None = None) -> str:
        """Say something and return the reply; both are kept, unless the reply is interrupted."""
        # Training text is composed likewise, and a keyboard or file may not be.
        asked = {"role": "user", "content": unicodedata.normalize("NFC", text.strip())}
        reply = self.chatbot.reply([*self.messages, asked], settings, on_text)
        self.messages += [asked, {"role": "assistant", "content": reply}]
        return reply
