"""Look at a model, at the data and the log of its run where they are at hand, and try it."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from chatformer.data.exchanges import EncodedExchanges, encode_exchanges
from chatformer.data.unread import unread_part
from chatformer.evaluation.baselines import compare
from chatformer.evaluation.own_data import own_data, questions_and_answers, run_settings

# It also makes Chatformers known to AutoModelForSeq2SeqLM.
from chatformer.storage.model_folder import ModelFolder
from chatformer.training.settings import DoctorSettings, SettingsError

from .baselines import check_baselines
from .causes import causes_of, named_by
from .conversations import Conversations
from .data import check_bad_rows, check_leaks
from .dependence import check_future, check_padding
from .diagnosis import Diagnosis, data_findings, load
from .findings import Above, Check, Finding
from .model import check_generation, check_parts, check_round_trip
from .replies import check_copies, check_knowledge, check_listening, check_memory, check_remembering, check_replies
from .run_log import RunLog, check_log
from .size import check_size, check_vocabulary_size
from .thread import check_thread
from .trial import ENOUGH_QUESTIONS, different_questions, loss_on, try_out

TRAINING_DATA = Check(
    name="training data",
    bad=Above(hint=0),
    title="The training data is not at hand",
    what_to_do="Put it back where it was, or look at the data alone: `chatformer doctor DATA`.",
)

UNREAD = Check(
    name="unread",
    bad=Above(hint=0),
    title="A part of the data is not read",
    what_to_do="Train on conversations that have such messages, too; a model of single questions is to be tried on "
    "single questions.",
)

TRIAL = Check(name="trial", bad=Above(hint=0), title="It was not tried")


def diagnosis_of_model(settings: DoctorSettings) -> Diagnosis:
    """Look at a model, at the data and the log of its run where they are at hand, and try it."""
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
        about_data += TRAINING_DATA.findings(True, f"It was not looked at: {error}")
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
        about_data += check_size(sum(weight.numel() for weight in model.parameters()), num_tokens)
        about_data += check_vocabulary_size(len(tokenizer), num_tokens)
        if tried is not None and len(tried):
            about_data += check_leaks(known, Conversations(tried))
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
    found = f"What it is tried on has {unread}, which the model's chat template leaves out."
    return UNREAD.findings(unread is not None, found)


def load_model(name: str, settings: DoctorSettings) -> tuple[Any, Any, list[str]]:
    """Return a model in float32, its tokenizer, and the names of weights that its files did not have."""
    # What transformers does not find it asks the Hub for again and again, for a minute where there is no network.
    folder = ModelFolder.find(name, settings.revision).folder
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # What it would say of weights that are missing is said among the findings.
    transformers.utils.logging.set_verbosity_error()
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return model.to(device).eval(), tokenizer, sorted(report["missing_keys"])
    # Behind its first line transformers gives advice that is not about this command.
    except (OSError, ValueError, RuntimeError) as error:
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
    """Look at a model's parts, and try it on conversations where there are some and it can be tried."""
    longest = [limit or sys.maxsize for limit in limits]
    findings = check_parts(model, tokenizer, missing)
    reason, advice = "", "Give conversations with --data."
    if any(finding.severity == "problem" for finding in findings):
        reason, advice = "A model in this state has nothing to say.", "Mend what is named above first."
    elif tried is None or not len(tried):
        reason = "There are no conversations to try it on."
    else:
        encoded = encode_exchanges(tried, tokenizer, *longest)
        if not len(encoded):
            reason, advice = "Every reply is too long to try it on.", "Raise --max-target-tokens."
    if reason:
        return findings + TRIAL.findings(True, reason, what_to_do=advice)
    known = None
    if training is not None:
        # Some from all over the data.
        step = -(-len(training) // max_exchanges)
        known = encode_exchanges(training.select(range(0, len(training), step)), tokenizer, *longest)
    findings += check_behaviour(
        model,
        tokenizer,
        encoded,
        max_exchanges=max_exchanges,
        log=log,
        known=known,
        training=None if training is None else questions_and_answers(training),
    )
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
) -> list[Finding]:
    """
    What shows when the model is tried on exchanges, at most `max_exchanges` with different questions.

    `known` are some that it was trained on, and `training` all questions and answers that it was trained on.
    """
    tried = different_questions(exchanges, max_exchanges)
    texts = [text for history in tried.histories for text in (message["content"] for message in history)]
    findings = [
        *check_round_trip(tokenizer, [*texts, *tried.replies]),
        *check_generation(model, exchanges.target_lengths),
        *check_future(model, tried),
        *check_padding(model, tried),
    ]
    found = f"Only {len(tried)} different ones: whether it listens and what it says cannot be judged."
    if too_few := ENOUGH_QUESTIONS.findings(len(tried), found):
        return findings + too_few
    answers = Counter(answer for _, answer in training or ())
    trial = try_out(model, tokenizer, tried, training_replies=None if training is None else answers)
    figures = trial.evaluation
    most_frequent_answer = answers.most_common(1)[0][1] / answers.total() if answers else None
    causes = causes_of(model, tried, log, most_frequent_answer)
    (listening,) = check_listening(figures.source_gain, figures.bits_per_character, causes)
    findings += [
        *check_knowledge(trial, model.config.vocab_size),
        listening,
        *check_remembering(trial),
        # The causes are said once.
        *check_replies(trial, causes if listening.severity == "good" else [named_by(listening)]),
        *check_copies(trial),
    ]
    if training:
        findings += check_baselines(compare(tried, trial.outcome, training), len(trial.outcome.replies))
    if known is not None and len(known):
        findings += check_memory(figures.loss, loss_on(model, known))
    return findings
