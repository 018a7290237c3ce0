"""Look at a model, at the data and the log of its run where they are at hand, and try it."""

import sys
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from chatformer.data.exchanges import encode_exchanges
from chatformer.data.unread import unread_part
from chatformer.evaluation.own_data import own_data, questions_and_answers, run_settings

# It also makes Chatformers known to AutoModelForSeq2SeqLM.
from chatformer.storage.model_folder import ModelFolder
from chatformer.training.settings import DoctorSettings, SettingsError

from .conversations import Conversations
from .data import check_bad_rows, check_leaks, check_size
from .diagnosis import Diagnosis, data_findings, load
from .findings import Finding
from .model import RunLog, check_behaviour, check_log, check_parts, check_vocabulary_size
from .thread import check_thread


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
        about_data.append(
            Finding(
                check="training data",
                severity="hint",
                title="The training data is not at hand",
                found=f"It was not looked at: {error}",
                what_to_do="Put it back where it was, or look at the data alone: `chatformer doctor DATA`.",
            )
        )
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
    """Find that the model is tried on what it does not read."""
    unread = unread_part(tokenizer, tried)
    if unread is None:
        return []
    return [
        Finding(
            check="unread",
            severity="hint",
            title="A part of the data is not read",
            found=f"What it is tried on has {unread}, which the model's chat template leaves out.",
            what_to_do="Train on conversations that have such messages, too; a model of single questions is to be "
            "tried on single questions.",
        )
    ]


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
        untried = Finding(check="trial", severity="hint", title="It was not tried", found=reason, what_to_do=advice)
        return [*findings, untried]
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
