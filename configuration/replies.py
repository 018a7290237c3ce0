"""The settings of replies: which model answers, how it searches, the flags of `chat`, `web`, `generate` and `serve`."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from .declaring import (
    AtLeast,
    AtMost,
    Elsewhere,
    MoreThan,
    Needs,
    OfHub,
    Seed,
    SettingsError,
    Without,
    check,
    did_you_mean,
    from_text,
    name_of,
)

if TYPE_CHECKING:
    from transformers import GenerationConfig

EngineName = Literal["transformers", "ctranslate2"]


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """Which model."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a trained model, or a model's id on the Hub."""
    revision: Annotated[str | None, OfHub("model"), Without("url")] = None
    """Commit, tag or branch of a model on the Hub."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How a reply is searched for."""

    num_beams: Annotated[int, AtLeast(1), AtMost(1000), Without("url"), Elsewhere("beam_size")] = 1
    """Beams of the search; 1 is greedy. More find likelier replies, which a chat then shows at once instead of word by
    word."""
    length_penalty: Annotated[float | None, Needs("num_beams"), Without("url")] = None
    """Exponent of the length that the score of a beam is divided by; the model's own, mostly 1, unless given."""
    no_repeat_ngram_size: Annotated[int, AtLeast(0), Without("url")] = 0
    """No run of so many tokens comes twice in a reply, which ends loops; 0 allows all."""
    max_new_tokens: Annotated[int | None, AtLeast(1), Elsewhere("max_length")] = None
    """Longest reply in tokens; the model's own limit unless given."""


@dataclass(frozen=True, kw_only=True)
class ReplySettings(SearchSettings):
    """How replies are generated."""

    temperature: Annotated[float, AtLeast(0)] | None = None
    """0 takes the likeliest token each time; higher values draw more daringly; the model's own, 0 but for prose
    and tunes, unless given."""
    top_p: Annotated[float | None, MoreThan(0), AtMost(1), Needs("temperature")] = None
    """Draw from the likeliest tokens that together have this probability; the model's own, mostly 1, unless given."""
    top_k: Annotated[int | None, AtLeast(0), Needs("temperature"), Without("url")] = None
    """Draw from this many likeliest tokens; 0 sets no limit; the model's own, mostly 50, unless given."""
    repetition_penalty: Annotated[float | None, MoreThan(0), Without("url")] = None
    """Above 1, tokens that a reply already has become less likely; the model's own, 1.1 unless it was trained with
    another, unless given."""

    def changed(self, name: str, text: str) -> "ReplySettings":
        """These settings with one of them as a person typed it; raise a `SettingsError` if it is not possible."""
        name = name_of(name)
        types = typing.get_type_hints(ReplySettings)
        if name not in types:
            raise SettingsError(f"There is no setting {name!r}.{did_you_mean(name, types)} /settings lists them.")
        settings = dataclasses.replace(self, **{name: from_text(text, types[name], name)})
        check(settings)
        return settings

    def search(self) -> "GenerationConfig":
        """The search as `generate()` takes it; what is not set here is the model's own choice."""
        # Here, since the import takes a second, and `--help` needs only the flags.
        from transformers import GenerationConfig

        options: dict[str, Any] = {"num_beams": self.num_beams, "num_return_sequences": 1}
        if self.temperature is not None or self.num_beams > 1:
            # Beams search for the likeliest reply.
            options["do_sample"] = bool(self.temperature)
        if self.temperature:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.num_beams > 1:
            # A greedy search has no use for it, and would warn of it.
            options["length_penalty"] = self.length_penalty
        if self.no_repeat_ngram_size:
            options["no_repeat_ngram_size"] = self.no_repeat_ngram_size
        options |= {"repetition_penalty": self.repetition_penalty, "max_new_tokens": self.max_new_tokens}
        options = {name: value for name, value in options.items() if value is not None}
        return GenerationConfig(**options)

    def draws(self, own: "GenerationConfig") -> bool:
        """True if replies are drawn, of a model with its `own` settings."""
        return bool(self.search().do_sample if self.search().do_sample is not None else own.do_sample)


@dataclass(frozen=True, kw_only=True)
class ChatbotSettings(PretrainedSettings):
    """Who replies, and how."""

    reply: tyro.conf.OmitArgPrefixes[ReplySettings] = ReplySettings()
    """How replies are generated."""
    engine: Annotated[EngineName, Without("url")] = "transformers"
    """What computes the replies; ctranslate2 runs a folder that `chatformer export --to ctranslate2` wrote."""
    system: str | None = None
    """A message that comes before the conversation."""
    device: Annotated[str | None, Without("url")] = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""
    seed: Seed | None = None
    """Makes drawing repeatable."""


@dataclass(frozen=True, kw_only=True)
class ChatSettings(ChatbotSettings):
    """Talk to a trained model, in the terminal or through a pipe."""

    model: Annotated[str, tyro.conf.Positional] = ""
    """Folder of a trained model, or a model's id on the Hub; with --url the server's model, its first unless given."""
    url: str | None = None
    """Server of OpenAI's protocol to talk to, such as http://127.0.0.1:8000 of `chatformer serve`."""
    api_key: Annotated[str | None, Needs("url")] = None
    """Key of that server; CHATFORMER_API_KEY unless given, which other users of the machine do not see."""
    save_media: Path | None = None
    """Folder to save the pictures and tunes of replies in, as 1.png, 2.wav and so on."""


@dataclass(frozen=True, kw_only=True)
class WebSettings(ChatSettings):
    """Talk to a trained model on a web page, and see inside: tokens, attention, probabilities, beams."""

    # The page's settings begin as the flags say.
    MAY_COME_LATER: ClassVar = ("temperature", "num_beams")
    title: str | None = None
    """Title of the page; the model's name unless given."""
    # On the page a picture is saved from its menu.
    save_media: tyro.conf.Suppress[Path | None] = None
    examples: Annotated[bool, Without("url")] = True
    """Offer a few questions of the validation data, which may be private, as examples."""
    host: str = "127.0.0.1"
    """Address to listen at; with the default, only browsers on this machine reach the page. 0.0.0.0 is all of the
    machine's addresses."""
    port: Annotated[int, AtLeast(0), AtMost(65535)] = 7860
    """Port to listen at; 0 takes a free one."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(ChatbotSettings):
    """Reply to each line of a text, or translate it: a line comes out for each that goes in."""

    data: Path | None = None
    """Text file in UTF-8, or one packed by gzip, a question or sentence a line; standard input unless given."""
    output_file: Path | None = None
    """Where to write the replies; standard output unless given."""
    save_media: Path | None = None
    """Folder to save the pictures and tunes of replies in, as 1.png, 2.wav and so on, in the order of the lines."""
    rerank_by: str | None = None
    """Model that was trained on the same pairs the other way round, such as one that names pictures: of several draws
    it chooses the one that makes it expect the line."""
    num_draws: Annotated[int, AtLeast(1), Needs("rerank_by")] = 8
    """Draws that --rerank-by chooses among."""
    batch_tokens: Annotated[int, AtLeast(1)] = 4000
    """Tokens that are read at a time, padding counted in; the longest reply and each beam take their memory as well."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings(ChatbotSettings):
    """Serve a trained model over HTTP, in the protocol of OpenAI's chat completions."""

    # A request may bring the temperature that top-p needs.
    MAY_COME_LATER: ClassVar = ("temperature",)
    host: str = "127.0.0.1"
    """Address to listen at; with the default, only programs on this machine reach the server. 0.0.0.0 is all of the
    machine's addresses, and should have --api-key."""
    port: Annotated[int, AtLeast(0), AtMost(65535)] = 8000
    """Port to listen at; 0 takes a free one."""
    api_key: str | None = None
    """Key that clients must send; CHATFORMER_API_KEY unless given, which other users of the machine do not see."""
    model_name: str | None = None
    """What clients call the model; the folder's name, or the id on the Hub, unless given."""
    cors_origins: tuple[str, ...] = ()
    """Web sites whose pages may ask the server from a browser, such as https://example.org; * allows all."""
    num_threads: Annotated[int, AtLeast(1)] | None = None
    """Batches that ctranslate2 computes at the same time, each on a core; one for each core unless given."""
    max_batch_size: Annotated[int, AtLeast(1)] = 32
    """Most replies that are computed at once, by one thread."""
    max_waiting: Annotated[int, AtLeast(1)] = 256
    """Most replies that wait for their turn; further requests are refused (429)."""
    max_body_bytes: Annotated[int, AtLeast(1)] = 2**20
    """Largest request in bytes; larger ones are refused (413)."""
    grace_seconds: Annotated[int, AtLeast(0)] = 30
    """Seconds that running replies get to finish when the server is asked to stop."""

    @property
    def served_name(self) -> str:
        """What clients call the model."""
        folder = Path(self.model)
        return self.model_name or (folder.resolve().name if folder.is_dir() else self.model)
