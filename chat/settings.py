"""The settings of a chat, each a flag of `chatformer chat` or `chatformer generate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from transformers import GenerationConfig

EngineName = Literal["transformers", "ctranslate2"]


@dataclass(frozen=True, kw_only=True)
class ReplySettings:
    """How replies are generated."""

    temperature: float = 0.0
    """0 takes the likeliest token each time; higher values draw more daringly."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int = 50
    """Draw from this many likeliest tokens; 0 sets no limit."""
    num_beams: int = 1
    """Beams of the search; more find likelier replies, which a chat then shows whole instead of word by word."""
    length_penalty: float | None = None
    """Exponent of the length that the score of a beam is divided by; the model's own, mostly 1, unless given."""
    repetition_penalty: float | None = None
    """Above 1, tokens that stand already become less likely; the model's own, mostly 1, unless given."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens stands twice in a reply, which ends loops; 0 allows all."""
    max_new_tokens: int | None = None
    """Longest reply in tokens; the model's own limit unless given."""

    def __post_init__(self) -> None:
        """Raise a `ValueError` for what no search could do."""
        for name, is_possible, expected in (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("repetition_penalty", self.repetition_penalty is None or self.repetition_penalty > 0, "above 0"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "at least 0"),
            ("max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "at least 1"),
        ):
            if not is_possible:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} must be {expected}, but it is {getattr(self, name)}.")

    def search(self) -> "GenerationConfig":
        """Return the search as `generate()` takes it; what is not set here is the model's own choice."""
        # Here, for it takes a second, and `--help` needs no more than the flags.
        from transformers import GenerationConfig

        options: dict[str, Any] = {"num_beams": self.num_beams, "num_return_sequences": 1}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.num_beams > 1:
            # A greedy search has no use for it, and would warn of it.
            options["length_penalty"] = self.length_penalty
        if self.no_repeat_ngram_size:
            options["no_repeat_ngram_size"] = self.no_repeat_ngram_size
        options |= {"repetition_penalty": self.repetition_penalty, "max_new_tokens": self.max_new_tokens}
        options = {name: value for name, value in options.items() if value is not None}
        return GenerationConfig(do_sample=self.temperature > 0, **options)


@dataclass(frozen=True, kw_only=True)
class ChatbotSettings:
    """Who replies, and how."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a trained model, or a model's id on the Hub."""
    reply: tyro.conf.OmitArgPrefixes[ReplySettings] = ReplySettings()
    engine: EngineName = "transformers"
    """What computes the replies; ctranslate2 runs a folder that `chatformer export --to ctranslate2` wrote."""
    system: str | None = None
    """A message that stands before the conversation."""
    revision: str | None = None
    """Commit, tag or branch of a model on the Hub."""
    device: str | None = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""
    seed: int | None = None
    """Makes drawing with a temperature repeatable."""

    def __post_init__(self) -> None:
        """Raise a `ValueError` for what cannot be."""
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be at least 0 and below 2^32, but it is {self.seed}.")


@dataclass(frozen=True, kw_only=True)
class ChatSettings(ChatbotSettings):
    """Talk to a trained model, in the terminal or through a pipe."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(ChatbotSettings):
    """Reply to each line of a text, or translate it: a line comes out for each that goes in."""

    data: Path | None = None
    """Text file in UTF-8, or one packed by gzip, a question or sentence a line; standard input unless given."""
    output_file: Path | None = None
    """Where to write the replies; standard output unless given."""
    batch_tokens: int = 4000
    """Tokens that are read at a time, padding counted in; the longest reply and each beam take their memory as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens < 1:
            raise ValueError(f"--batch-tokens must be at least 1, but it is {self.batch_tokens}.")
