"""The model card: a template filled in with what a training recorded, and with what the model really answers."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, RepoCard

from chatformer import __version__
from chatformer.storage.model_folder import Checkpoint

from .bundle import CARD, CURVES, LOG, check_no_token, public_name, read_log, read_structure, samples_in
from .errors import HubError
from .loading import loading

MAX_SAMPLES = 6
GREETINGS = {"ko": "안녕하세요!", "en": "Hello!"}
SEAL = re.compile(r"\n<!-- written by chatformer push, ([0-9a-f]{64}) -->\n$")
PINNED = re.compile(r'revision="([0-9a-f]{40})"')
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WRITTEN_BY_TRANSFORMERS = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)

TAGS = ("chatformer", "chatbot", "conversational", "seq2seq", "encoder-decoder", "arxiv:1706.03762")

METRICS = {
    "loss": ("loss", "Loss, nats per token"),
    "bits_per_character": ("bits_per_character", "Bits per character"),
    "source_gain": ("source_gain", "Bits per character saved by listening"),
    "bleu": ("bleu", "BLEU"),
    "chrf": ("chrf", "chrF"),
    "exact_match": ("exact_match", "Exact match, %"),
}
"""Figures by their names in a record, each with its type and its name on the Hub."""

Sample = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of data that Chatformer has a recipe for."""

    name: str
    url: str | None
    license: str
    languages: tuple[str, ...]


KNOWN_DATA = {
    "starter": Origin(
        name="the starter corpus that comes with Chatformer",
        url=None,
        license="apache-2.0",
        languages=("ko", "en"),
    ),
    "https://raw.githubusercontent.com/songys/Chatbot_data/master/ChatbotData.csv": Origin(
        name="songys/Chatbot_data",
        url="https://github.com/songys/Chatbot_data",
        license="mit",
        languages=("ko",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """A kind of conversations that a model was measured on."""

    name: str
    title: str
    title_ko: str


SPLITS = (
    Split(name="all", title="All", title_ko="전체"),
    Split(name="seen", title="Answers that stand in the training data", title_ko="답이 학습 데이터에 있던 대화"),
    Split(name="unseen", title="Answers that do not", title_ko="답이 학습 데이터에 없던 대화"),
)
"""As `chatformer evaluate` tells them apart."""
VALIDATION = Split(name="validation", title="Conversations kept out of training", title_ko="학습에서 뺀 대화")


@dataclass(frozen=True, kw_only=True)
class Records:
    """What a training left in its folder; empty where it left nothing."""

    config: dict[str, Any]
    settings: dict[str, Any]
    record: dict[str, Any]
    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    conversion: dict[str, Any]
    has_curves: bool

    @classmethod
    def read(cls, folder: Path) -> "Records":
        def structure(name: str) -> dict[str, Any]:
            return read_structure(folder / name) if (folder / name).is_file() else {}

        return cls(
            config=structure("config.json"),
            settings=structure("training_settings.yaml"),
            record=structure("training_record.json"),
            log=read_log(folder / LOG),
            evaluation=structure("evaluation.json"),
            conversion=structure("conversion.json"),
            has_curves=(folder / CURVES).is_file(),
        )

    def evaluation_fits(self, folder: Path) -> bool:
        """Return whether the evaluation, where it says so, was of the weights in a folder."""
        measured_on = self.evaluation.get("weights_sha256")
        if measured_on is None:
            return True
        with loading():
            return bool(measured_on == Checkpoint(str(folder), folder).weights_sha256())

    def sources(self) -> list[str]:
        # A repository on the Hub may hold anything there.
        data = self.record.get("data")
        sources = data.get("sources") if isinstance(data, dict) else None
        if not isinstance(sources, (list, tuple)):
            return []
        return [public_name(source) for source in sources if isinstance(source, str)]

    def questions(self) -> list[str]:
        """Return the questions of the last samples in the log, each once."""
        sampled = [sample["source"] for line in reversed(self.log) for sample in samples_in(line)]
        return list(dict.fromkeys(sampled))[:MAX_SAMPLES]


def languages_of(records: Records) -> tuple[str, ...]:
    """Return the languages of known data, or Korean where a tenth of the sampled letters is Hangul, or none."""
    known = [KNOWN_DATA[source].languages for source in records.sources() if source in KNOWN_DATA]
    if known:
        return tuple(dict.fromkeys(language for languages in known for language in languages))
    texts = [text for line in records.log for sample in samples_in(line) for text in sample.values()]
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    hangul = sum("가" <= letter <= "힣" or "ㄱ" <= letter <= "ㅣ" for letter in letters)
    # Other scripts do not tell a language, and a wrong one is worse than none.
    return ("ko",) if letters and hangul >= len(letters) / 10 else ()


def license_of(records: Records) -> str | None:
    """Return the licence of the training data, where it is known and the same for all of it."""
    sources = records.sources()
    known = {KNOWN_DATA[source].license for source in sources if source in KNOWN_DATA}
    return known.pop() if len(known) == 1 and all(source in KNOWN_DATA for source in sources) else None


def sample_conversations(folder: str, questions: Sequence[str], languages: Sequence[str]) -> list[Sample]:
    """Return the questions, greetings where there are none, and the model's greedy replies to them."""
    import torch

    from chatformer.conversation import encode_conversation

    greetings = [GREETINGS[name] for name in (*languages, "en") if name in GREETINGS]
    with loading():
        checkpoint = Checkpoint.find(folder)
        model = checkpoint.model(torch.float32)
        tokenizer = checkpoint.tokenizer(vocab_size=model.config.vocab_size)
    longest = tokenizer.model_max_length
    samples = []
    for question in questions or dict.fromkeys(greetings):
        messages = [{"role": "user", "content": question}]
        ids = encode_conversation(tokenizer, messages, longest if longest < 10**9 else None)
        reply = generated_reply(model, tokenizer, ids)
        samples.append((question, reply))
    return samples


def generated_reply(model: Any, tokenizer: Any, ids: list[int]) -> str:
    import torch

    input_ids = torch.tensor([ids])
    generated = model.generate(
        input_ids=input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, num_beams=1
    )
    return tokenizer.decode(generated[0], skip_special_tokens=True)


def measured(records: Records) -> list[tuple[Split, dict[str, float]]]:
    """Return the figures of each kind of conversation, by `chatformer evaluate` or else by the training itself."""
    figures = records.evaluation.get("figures", {})
    found = [(split, figures[split.name]) for split in SPLITS if figures.get(split.name)]
    best = {name.removeprefix("eval_"): value for name, value in records.record.get("best", {}).items()}
    if not found and "loss" in best:
        found = [(VALIDATION, best)]
    return [(split, {name: each[name] for name in METRICS if each.get(name) is not None}) for split, each in found]


def evaluated_on(records: Records) -> list[str]:
    """Return what `chatformer evaluate` was given to measure on; nothing where that was the run's own validation."""
    return [public_name(source) for source in records.evaluation.get("settings", {}).get("data") or []]


def readable(value: float) -> str:
    """Return a figure with four digits, and none of them beyond the fourth place."""
    # The sum makes a negative zero positive.
    return f"{round(value, 4) + 0.0:.4g}"


def eval_results(records: Records) -> list[EvalResult]:
    """Return the figures in the Hub's form, each kind of conversation a split of its own."""
    name = next(iter(evaluated_on(records) or records.sources()), "conversations")
    dataset_type = name if HUB_ID.fullmatch(name) else re.sub(r"[^\w.-]+", "-", Path(name).stem)
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Conversation",
            dataset_type=dataset_type or "conversations",
            dataset_name=f"{name}: {split.title.lower()}",
            dataset_split=split.name,
            metric_type=METRICS[figure][0],
            metric_name=METRICS[figure][1],
            metric_value=round(value, 4) + 0.0,
        )
        for split, figures in measured(records)
        for figure, value in figures.items()
    ]


def write_card(
    records: Records,
    samples: Sequence[Sample],
    *,
    repo_id: str,
    revision: str,
    languages: Sequence[str],
    license: str | None,
    tags: Sequence[str] = (),
) -> bytes:
    """Return a model's README.md, which tells people to load `revision`, and is sealed so that edits are seen."""
    sources = records.sources()
    results = eval_results(records)
    data = ModelCardData(
        language=list(languages) or None,
        license=license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys([*TAGS, *tags])),
        datasets=[source for source in sources if HUB_ID.fullmatch(source)] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=repo_id.rpartition("/")[2],
        eval_results=results or None,
    )
    if not results:
        # Without results the name has no place in the metadata.
        data.pop("model_name")
    template = resources.files("chatformer.hub").joinpath("model_card.md.jinja").read_text("utf-8")
    card = ModelCard.from_template(
        data,
        template_str=template,
        readable=readable,
        repo_id=repo_id,
        name=repo_id.rpartition("/")[2],
        revision=revision,
        is_pinned=PINNED.fullmatch(f'revision="{revision}"') is not None,
        languages=list(languages),
        license_id=license,
        config=records.config,
        settings=records.settings,
        data=records.record.get("data", {}),
        overview=records.record.get("overview", {}),
        record=records.record,
        origins=[KNOWN_DATA.get(source) or source for source in sources],
        measured=measured(records),
        conversion=records.conversion,
        evaluation=records.evaluation,
        evaluated_on=evaluated_on(records),
        num_exchanges=records.evaluation.get("exchanges", {}),
        metric_names={name: label for name, (_, label) in METRICS.items()},
        questions_are_unseen={question for question, _ in samples} <= set(records.questions()),
        example=json.dumps(samples[0][0] if samples else GREETINGS["en"], ensure_ascii=False),
        data_is_public=all(source in KNOWN_DATA or "/" in source for source in sources),
        samples=[(one_line(question), one_line(reply)) for question, reply in samples],
        curves=CURVES if records.has_curves else None,
        version=__version__,
    )
    return sealed(str(card))


def one_line(text: str) -> str:
    """Return a text as a cell of a table holds it."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def sealed(text: str) -> bytes:
    """Return a card with a last line that no longer fits when anything before it is changed."""
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return f"{text}\n<!-- written by chatformer push, {hashlib.sha256(text.encode()).hexdigest()} -->\n".encode()


def is_ours(card: bytes) -> bool:
    """Return whether a card is as Chatformer or transformers made it, and not a person's."""
    text = card.decode("utf-8", errors="replace")
    found = SEAL.search(text)
    if found is None:
        if WRITTEN_BY_TRANSFORMERS not in text:
            return False
        # Somebody may have begun to fill it in.
        stock = ModelCard.from_template(ModelCardData(), model_description=WRITTEN_BY_TRANSFORMERS)
        return RepoCard(text, ignore_metadata_errors=True).text.strip() == stock.text.strip()
    return hashlib.sha256(text[: found.start()].encode()).hexdigest() == found[1]


def pinned_commit(card: bytes) -> str | None:
    """Return the commit that a card tells people to load."""
    found = PINNED.search(card.decode("utf-8", errors="replace"))
    return found[1] if found else None


def own_card(folder: str) -> bytes | None:
    """Return a folder's card where a person wrote or edited it; raise a `HubError` where it may not be shown."""
    file = Path(folder) / CARD
    if not file.is_file():
        return None
    card = file.read_bytes()
    check_no_token(file.name, card)
    try:
        card.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{file} must be UTF-8 text, which it is not: {error}") from error
    return None if is_ours(card) else card
