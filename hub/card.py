"""The model card: a template, filled with the records of a training and with real replies of the model."""

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
from chatformer.storage.model_folder import ModelFolder
from chatformer.storage.names import CARD_FILE, CURVES_FILE
from chatformer.storage.run_folder import Records, samples_in

from .errors import HubError, as_hub_error
from .privacy import check_no_token, public_name

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
"""The figures by their names in a record, each with its type and its name on the Hub."""

Sample = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The facts about data that Chatformer has a recipe for."""

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
    """A group of conversations that a model was measured on."""

    name: str
    title: str
    title_ko: str


SPLITS = (
    Split(name="all", title="All", title_ko="전체"),
    Split(name="seen", title="Answers that are in the training data", title_ko="답이 학습 데이터에 있던 대화"),
    Split(name="unseen", title="Answers that are not", title_ko="답이 학습 데이터에 없던 대화"),
)
"""The groups of `chatformer evaluate`."""
VALIDATION = Split(name="validation", title="Conversations kept out of training", title_ko="학습에서 뺀 대화")


def sources_of(records: Records) -> list[str]:
    """The names of the data that a model was trained on, without what is private in them."""
    # A repository on the Hub may hold anything there.
    data = records.record.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    if not isinstance(sources, (list, tuple)):
        return []
    return [public_name(source) for source in sources if isinstance(source, str)]


def evaluation_fits(records: Records, folder: Path) -> bool:
    """True unless the evaluation names other weights than those in the folder."""
    measured_on = records.evaluation.get("weights_sha256")
    return measured_on is None or bool(measured_on == ModelFolder(str(folder), folder).weights_sha256())


def questions_of(records: Records) -> list[str]:
    """The few latest questions of the log, which the card may show."""
    return records.questions()[:MAX_SAMPLES]


def languages_of(records: Records) -> tuple[str, ...]:
    """The languages of known data; of other data Korean if a tenth of the sampled letters is Hangul, or none."""
    known = [KNOWN_DATA[source].languages for source in sources_of(records) if source in KNOWN_DATA]
    if known:
        return tuple(dict.fromkeys(language for languages in known for language in languages))
    texts = [text for line in records.log for sample in samples_in(line) for text in sample.values()]
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    hangul = sum("가" <= letter <= "힣" or "ㄱ" <= letter <= "ㅣ" for letter in letters)
    # Other scripts are used by many languages, and a wrong one is worse than none.
    return ("ko",) if letters and hangul >= len(letters) / 10 else ()


def license_of(records: Records) -> str | None:
    """The licence of the training data, if it is known and all of the data has the same one."""
    sources = sources_of(records)
    known = {KNOWN_DATA[source].license for source in sources if source in KNOWN_DATA}
    return known.pop() if len(known) == 1 and all(source in KNOWN_DATA for source in sources) else None


@as_hub_error()
def sample_conversations(folder: str, questions: Sequence[str], languages: Sequence[str]) -> list[Sample]:
    """The questions, or greetings if there are none, and the model's greedy replies to them."""
    import torch

    from chatformer.conversation import encode_conversation

    greetings = [GREETINGS[name] for name in (*languages, "en") if name in GREETINGS]
    model_folder = ModelFolder.find(folder)
    model = model_folder.model(torch.float32)
    tokenizer = model_folder.tokenizer(vocab_size=model.config.vocab_size)
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
    """The figures of each group of conversations, by `chatformer evaluate` or else by the training."""
    figures = records.evaluation.get("figures", {})
    groups = [(split, figures[split.name]) for split in SPLITS if figures.get(split.name)]
    best = {name.removeprefix("eval_"): value for name, value in records.record.get("best", {}).items()}
    if not groups and "loss" in best:
        groups = [(VALIDATION, best)]
    return [(split, {name: each[name] for name in METRICS if each.get(name) is not None}) for split, each in groups]


def evaluated_on(records: Records) -> list[str]:
    """The data that `chatformer evaluate` was given; empty if it used the run's own validation data."""
    return [public_name(source) for source in records.evaluation.get("settings", {}).get("data") or []]


def readable(value: float) -> str:
    """A figure with four digits, none of them beyond the fourth decimal place."""
    # Adding 0.0 makes a negative zero positive.
    return f"{round(value, 4) + 0.0:.4g}"


def eval_results(records: Records) -> list[EvalResult]:
    """The figures in the Hub's form, with a split for each group of conversations."""
    name = next(iter(evaluated_on(records) or sources_of(records)), "conversations")
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
    """A model's README.md, with code that loads `revision`, and sealed so that later edits are recognised."""
    sources = sources_of(records)
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
        # The metadata has a name only as part of results.
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
        questions_are_unseen={question for question, _ in samples} <= set(questions_of(records)),
        example=json.dumps(samples[0][0] if samples else GREETINGS["en"], ensure_ascii=False),
        data_is_public=all(source in KNOWN_DATA or "/" in source for source in sources),
        samples=[(one_line(question), one_line(reply)) for question, reply in samples],
        curves=CURVES_FILE if records.has_curves else None,
        version=__version__,
    )
    return sealed(str(card))


def one_line(text: str) -> str:
    """A text in the form of a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def sealed(text: str) -> bytes:
    """A card with a checksum in its last line, which no longer fits once the text is edited."""
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return f"{text}\n<!-- written by chatformer push, {hashlib.sha256(text.encode()).hexdigest()} -->\n".encode()


def is_ours(card: bytes) -> bool:
    """True if a card is as Chatformer or transformers wrote it, unedited."""
    text = card.decode("utf-8", errors="replace")
    found = SEAL.search(text)
    if found is None:
        if WRITTEN_BY_TRANSFORMERS not in text:
            return False
        # The author may have begun to fill it in.
        stock = ModelCard.from_template(ModelCardData(), model_description=WRITTEN_BY_TRANSFORMERS)
        return RepoCard(text, ignore_metadata_errors=True).text.strip() == stock.text.strip()
    return hashlib.sha256(text[: found.start()].encode()).hexdigest() == found[1]


def pinned_commit(card: bytes) -> str | None:
    """The commit that a card says to load."""
    found = PINNED.search(card.decode("utf-8", errors="replace"))
    return found[1] if found else None


def own_card(folder: str) -> bytes | None:
    """A folder's card if a person wrote or edited it; raise a `HubError` if it may not be published."""
    file = Path(folder) / CARD_FILE
    if not file.is_file():
        return None
    card = file.read_bytes()
    check_no_token(file.name, card)
    try:
        card.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{file} must be UTF-8 text, which it is not: {error}") from error
    return None if is_ours(card) else card
