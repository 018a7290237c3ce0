"""The diagnosis of a model: its parts, its behaviour, and the data and the log of its run if they are available."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from safetensors import SafetensorError

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.evaluation import DoctorSettings
from chatformer.data.exchanges import EncodedExchanges, encode_exchanges
from chatformer.data.prose import is_prose
from chatformer.data.unread import unread_part
from chatformer.evaluation.baselines import compare
from chatformer.evaluation.own_data import own_data, questions_and_answers, run_settings
from chatformer.storage.bars import datasets_bars

# This import also registers Chatformers with AutoModelForSeq2SeqLM.
from chatformer.storage.model_folder import ModelFolder

from .baselines import check_baselines
from .causes import causes_of, named_by
from .conversations import Conversations
from .data import check_bad_rows
from .dependence import check_future, check_padding
from .diagnosis import Diagnosis, data_findings, leak_findings, load
from .findings import Above, Check, Finding
from .model import check_generation, check_parts, check_round_trip
from .replies import check_copies, check_knowledge, check_listening, check_memory, check_remembering, check_replies
from .run_log import RunLog, check_log
from .size import check_size, check_vocabulary_size
from .thread import check_thread
from .trial import ENOUGH_QUESTIONS, different_questions, loss_on, try_out
from .writing import MEMORY, check_writing

TRAINING_DATA = Check(
    name="training data",
    bad=Above(hint=0),
    title="The training data is not available",
    what_to_do="Put it back where it was, or examine the data alone: `chatformer doctor DATA`.",
)

UNREAD = Check(
    name="unread",
    bad=Above(hint=0),
    title="A part of the data is not read",
    what_to_do="Train on conversations that have such messages, too; try a model of single questions on single "
    "questions.",
)

TRIAL = Check(name="trial", bad=Above(hint=0), title="It was not tried")


@datasets_bars(shown=False)
def diagnosis_of_model(settings: DoctorSettings) -> Diagnosis:
    """Examine a model, try it, and examine the data and the log of its run if they are available."""
    (name,) = settings.subject
    diagnosis = Diagnosis(name)
    model, tokenizer, missing = load_model(name, settings)
    run, log = run_settings(Path(name)), RunLog.of(Path(name))
    own = run.tokenizer if run is not None else None
    diagnosis.limits = (
        settings.max_source_tokens or (own.max_source_tokens if own else None),
        settings.max_target_tokens or (own.max_target_tokens if own else None),
    )
    training = tried = None
    about_data: list[Finding] = []
    try:
        training, tried = own_data(name, run)
    except (OSError, ValueError) as error:
        about_data += TRAINING_DATA.findings(True, f"It was not examined: {error}")
    if settings.data:
        tried, diagnosis.bad_rows = load(settings.data, settings)
        num_rows = len(tried) + len(diagnosis.bad_rows)
        about_data += check_bad_rows(diagnosis.bad_rows, num_rows, left_out=settings.skip_bad_rows)
    if tried is not None and tokenizer.chat_template is not None:
        about_data += unread_findings(tokenizer, tried)
    if training is not None:
        known = Conversations(training)
        about_data += data_findings(known, diagnosis, tokenizer)
        assert diagnosis.lengths is not None
        num_tokens = int(diagnosis.lengths.targets.sum())
        num_parameters = sum(weight.numel() for weight in model.parameters())
        # Each member of an ensemble has learnt the data alone.
        about_data += check_size(num_parameters // getattr(model.config, "num_members", 1), num_tokens)
        about_data += check_vocabulary_size(len(tokenizer), num_tokens)
        if tried is not None and len(tried):
            about_data += leak_findings(known, Conversations(tried))
    diagnosis.sections["The data"] = about_data
    diagnosis.sections["The model"] = model_findings(
        model, tokenizer, missing, training, tried, log, diagnosis.limits, settings.max_exchanges
    )
    if log is not None:
        diagnosis.sections["The training"] = check_log(log)
    return diagnosis


def unread_findings(tokenizer: Any, tried: datasets.Dataset) -> list[Finding]:
    """Whether the model is tried on something that it does not read."""
    unread = unread_part(tokenizer, tried)
    statement = f"What it is tried on has {unread}, which the model's chat template leaves out."
    return UNREAD.findings(unread is not None, statement)


def load_model(name: str, settings: DoctorSettings) -> tuple[Any, Any, list[str]]:
    """The model in float32, its tokenizer, and the names of the weights that are not in its files."""
    # transformers asks the Hub for each missing file again and again, for a minute if there is no network.
    folder = ModelFolder.find(name, settings.revision).folder
    # A finding reports missing weights.
    transformers.utils.logging.set_verbosity_error()
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return model.to(device).eval(), tokenizer, sorted(report["missing_keys"])
    # After the first line, transformers gives advice that is not about this command.
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SettingsError(f"{name} cannot be loaded as a model: {str(error).splitlines()[0]}") from error


def model_findings(
    model: Any,
    tokenizer: Any,
    missing: list[str],
    training: datasets.Dataset | None,
    tried: datasets.Dataset | None,
    log: RunLog | None,
    limits: tuple[int | None, int | None],
    max_exchanges: int,
) -> list[Finding]:
    """Examine the parts of a model, and try it on conversations if that is possible."""
    longest = [limit or sys.maxsize for limit in limits]
    findings = check_parts(model, tokenizer, missing)
    reason, advice = "", "Give conversations with --data."
    if any(finding.severity == "problem" for finding in findings):
        reason, advice = "A model in this state cannot reply.", "Fix the problems above first."
    elif tried is None or not len(tried):
        reason = "There are no conversations to try it on."
    else:
        exchanges = encode_exchanges(tried, tokenizer, *longest)
        if not len(exchanges):
            reason, advice = "Every reply is too long to try it on.", "Raise --max-target-tokens."
    if reason:
        return findings + TRIAL.findings(True, reason, what_to_do=advice)
    known = None
    if training is not None:
        # Exchanges from all over the data.
        step = -(-len(training) // max_exchanges)
        known = encode_exchanges(training.select(range(0, len(training), step)), tokenizer, *longest)
    findings += check_behaviour(
        model,
        tokenizer,
        exchanges,
        max_exchanges=max_exchanges,
        log=log,
        known=known,
        training=None if training is None else questions_and_answers(training),
        of_prose=is_prose(tried),
    )
    if is_prose(tried):
        return findings
    return findings + check_thread(
        model,
        tokenizer,
        tried if training is None else training,
        max_source_tokens=limits[0],
        other_topics_fraction=None if log is None else log.settings.data.other_topics_fraction,
    )


def check_behaviour(
    model: Any,
    tokenizer: Any,
    exchanges: EncodedExchanges,
    *,
    max_exchanges: int,
    log: RunLog | None = None,
    known: EncodedExchanges | None = None,
    training: Sequence[tuple[str, str]] | None = None,
    of_prose: bool = False,
) -> list[Finding]:
    """
    Try the model on exchanges, at most `max_exchanges` with different questions.

    `known` are a few exchanges of its training, and `training` all questions and answers of its training.
    """
    sample = different_questions(exchanges, max_exchanges)
    texts = [text for history in sample.histories for text in (message["content"] for message in history)]
    findings = [
        *check_round_trip(tokenizer, [*texts, *sample.replies]),
        *check_generation(model, exchanges.target_lengths),
        *check_future(model, sample),
        *check_padding(model, sample),
    ]
    statement = f"Only {len(sample)} different ones: too few to judge whether it listens and what it says."
    if too_few := ENOUGH_QUESTIONS.findings(len(sample), statement):
        return findings + too_few
    answers = Counter(answer for _, answer in training or ())
    trial = try_out(model, tokenizer, sample, training_replies=None if training is None else answers)
    figures = trial.evaluation
    if of_prose:
        findings += [*check_knowledge(trial, model.config.vocab_size), *check_writing(trial, training)]
        if known is not None and len(known):
            findings += check_memory(figures.loss, loss_on(model, known), MEMORY)
        return findings
    most_frequent_answer = answers.most_common(1)[0][1] / answers.total() if answers else None
    causes = causes_of(model, sample, log, most_frequent_answer)
    (listening,) = check_listening(figures.source_gain, figures.bits_per_character, causes)
    findings += [
        *check_knowledge(trial, model.config.vocab_size),
        listening,
        *check_remembering(trial),
        # The causes are named once.
        *check_replies(trial, causes if listening.severity == "good" else [named_by(listening)]),
        *check_copies(trial),
    ]
    if training:
        findings += check_baselines(compare(sample, trial.outcome, training), len(trial.outcome.replies))
    if known is not None and len(known):
        findings += check_memory(figures.loss, loss_on(model, known))
    return findings
