"""The model card: a template, filled with the records of a training and with real replies of the model."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from chatformer import __version__
from chatformer.pictures import in_words
from chatformer.storage.model_folder import ModelFolder
from chatformer.storage.names import CURVES_FILE
from chatformer.storage.run_folder import Records

from .known_data import KNOWN_DATA, sources_of
from .privacy import public_name
from .samples import GREETINGS, Sample, questions_of, with_media_files
from .seal import PINNED, sealed

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

TAGS = ("chatformer", "chatbot", "conversational", "seq2seq", "encoder-decoder")
PAPERS = {
    "chatformer": "arxiv:1706.03762",
    "ensemble": "arxiv:1706.03762",
    "bahdanau": "arxiv:1409.0473",
}
"""The paper of each `model_type`, as a tag."""

METRICS = {
    "loss": ("loss", "Loss, nats per token"),
    "bits_per_character": ("bits_per_character", "Bits per character"),
    "source_gain": ("source_gain", "Bits per character saved by listening"),
    "bleu": ("bleu", "BLEU"),
    "chrf": ("chrf", "chrF"),
    "exact_match": ("exact_match", "Exact match, %"),
}
"""The figures by their names in a record, each with its type and its name on the Hub."""

OF_REPLIES = ("bleu", "chrf", "exact_match")
"""The figures of replies, which may be fewer than the exchanges that the others are of."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A group of conversations that a model was measured on."""

    name: str
    title: str
    title_ko: str


SPLITS = (
    Split(name="all", title="All", title_ko="전체"),
    Split(name="seen", title="Answers that are in the training data", title_ko="답이 학습 데이터에 있던 대화"),
    Split(name="unseen", title="Answers that the training data lacks", title_ko="답이 학습 데이터에 없던 대화"),
)
"""The groups of `chatformer evaluate`."""
VALIDATION = Split(name="validation", title="Conversations kept out of training", title_ko="학습에서 뺀 대화")
HELD_OUT_PROSE = Split(name="validation", title="Chapters kept out of training", title_ko="학습에서 뺀 장")
PROSE_ROWS = {
    "distinct_1": "distinct-1, %",
    "distinct_2": "distinct-2, %",
    "distinct_3": "distinct-3, %",
    "self_bleu": "self-BLEU",
    "repeated_4_grams": "repeated 4-grams, %",
    "copied_8_grams": "8-grams copied from training, %",
    "told_apart": "told apart from real text, % (50 is chance)",
}
"""The figures of prose by their names in an evaluation."""


def evaluation_fits(records: Records, folder: Path) -> bool:
    """True unless the evaluation names other weights than those in the folder."""
    sha256 = records.evaluation.get("weights_sha256")
    return sha256 is None or bool(sha256 == ModelFolder(str(folder), folder).weights_sha256())


def figures_by_split(records: Records) -> list[tuple[Split, dict[str, float]]]:
    """The figures of each group of conversations, from `chatformer evaluate` or else from the training."""
    figures, counts = (records.evaluation.get(name, {}) for name in ("figures", "exchanges"))
    groups = [
        (split, figures[split.name])
        for split in SPLITS
        # A group that is all of them says nothing new.
        if figures.get(split.name) and (split.name == "all" or counts.get(split.name) != counts.get("all", 0))
    ]
    best = {name.removeprefix("eval_"): value for name, value in records.record.get("best", {}).items()}
    if not groups and "loss" in best:
        groups = [(HELD_OUT_PROSE if is_of_prose(records) else VALIDATION, best)]
    return [(split, {name: each[name] for name in METRICS if each.get(name) is not None}) for split, each in groups]


def fewer_replies(records: Records) -> dict[str, int]:
    """The number of replies in each group of an evaluation with fewer replies than exchanges, else nothing."""
    figures, counts = (records.evaluation.get(name, {}) for name in ("figures", "exchanges"))
    num_replies = {name: each["num_replies"] for name, each in figures.items() if each and "num_replies" in each}
    return num_replies if any(0 < number < counts.get(name, 0) for name, number in num_replies.items()) else {}


def is_of_prose(records: Records) -> bool:
    """True if the model was trained on prose."""
    data = records.record.get("data")
    return isinstance(data, dict) and data.get("kind") == "prose"


def prose_figures(records: Records) -> list[tuple[str, float, float]]:
    """The figures of prose, each with its name: of what the model wrote, and of real text."""
    # A repository on the Hub may hold anything there.
    prose = records.evaluation.get("prose")
    written, real = (prose.get(side) for side in ("model", "real")) if isinstance(prose, dict) else (None, None)
    if not isinstance(written, dict) or not isinstance(real, dict):
        return []
    return [
        (title, written[name], real[name])
        for name, title in PROSE_ROWS.items()
        if isinstance(written.get(name), int | float) and isinstance(real.get(name), int | float)
    ]


def evaluation_data(records: Records) -> list[str]:
    """The data that `chatformer evaluate` was given; empty if it used the run's own validation data."""
    return [public_name(source) for source in records.evaluation.get("settings", {}).get("data") or []]


def readable(value: float) -> str:
    """A figure with four digits and at most four decimal places."""
    # Adding 0.0 makes a negative zero positive.
    return f"{round(value, 4) + 0.0:.4g}"


def eval_results(records: Records) -> list[EvalResult]:
    """The figures in the Hub's form, with a split for each group of conversations."""
    name = next(iter(evaluation_data(records) or sources_of(records)), "conversations")
    num_replies = fewer_replies(records)
    dataset_type = name if HUB_ID.fullmatch(name) else re.sub(r"[^\w.-]+", "-", Path(name).stem)
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Conversation",
            dataset_type=dataset_type or "conversations",
            dataset_name=f"{name}: {split.title.lower()}",
            dataset_split=split.name,
            metric_type=METRICS[figure][0],
            metric_name=METRICS[figure][1]
            + (f", of {num_replies[split.name]} replies" if figure in OF_REPLIES and split.name in num_replies else ""),
            metric_value=round(value, 4) + 0.0,
        )
        for split, figures in figures_by_split(records)
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
    """A model's README.md, with code that loads `revision`, and with a checksum by which later edits are recognised."""
    sources = sources_of(records)
    results = eval_results(records)
    data = ModelCardData(
        language=list(languages) or None,
        license=license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys([*TAGS, PAPERS[records.config.get("model_type", "chatformer")], *tags])),
        datasets=[source for source in sources if HUB_ID.fullmatch(source)] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=repo_id.rpartition("/")[2],
        eval_results=results or None,
    )
    if not results:
        # In the metadata, a name belongs to results.
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
        figures_by_split=figures_by_split(records),
        conversion=records.conversion,
        evaluation=records.evaluation,
        evaluation_data=evaluation_data(records),
        is_prose=is_of_prose(records),
        prose_figures=prose_figures(records),
        num_replies=fewer_replies(records),
        of_replies=OF_REPLIES,
        num_exchanges=records.evaluation.get("exchanges", {}),
        metric_names={name: label for name, (_, label) in METRICS.items()},
        questions_are_unseen={question for question, _ in samples} <= set(questions_of(records)),
        example=json.dumps(in_words(samples[0][0]) if samples else GREETINGS["en"], ensure_ascii=False),
        data_is_public=all(source in KNOWN_DATA or "/" in source for source in sources),
        samples=[(one_line(question), one_line(reply)) for question, reply in with_media_files(samples)],
        curves=CURVES_FILE if records.has_curves else None,
        version=__version__,
    )
    return sealed(str(card))


def one_line(text: str) -> str:
    """A text in the form of a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
