"""Measure a model as the settings say: its conversations, its engine, its output file."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from chatformer.chat.chatbot import Chatbot
from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.evaluation import EvaluationSettings
from chatformer.configuration.replies import ReplySettings
from chatformer.configuration.training import TrainingSettings
from chatformer.data.exchanges import EncodedExchanges, encode_exchanges
from chatformer.data.preparation import local_files, read_conversations
from chatformer.data.prose import is_prose
from chatformer.data.unread import unread_part
from chatformer.storage.explaining import counted
from chatformer.storage.keeping import check_kept, model_files
from chatformer.storage.names import EVALUATION_BAD_ROWS_FILE, EVALUATION_FILE
from chatformer.storage.writing import check_output_file

from .baselines import WHAT_TO_DO, better_baselines, compare, sentences_about
from .by_turns import figures_by_turns
from .figures import has_metrics
from .own_data import own_data, own_files, questions_and_answers, run_settings
from .pictures import completed_pixels, pictures_of, pictures_table
from .prose import compare_prose, without_references
from .report import data_in, figures_in, items, samples, show, versions, write
from .scoring import outcome_of
from .tunes import tunes_of, tunes_table

BAD_TRAINING_ROWS_FILE = "bad_training_rows.jsonl"


def evaluate_in_all_processes(settings: EvaluationSettings) -> int:
    """Evaluate with as many processes as were launched; return the exit status."""
    # Otherwise accelerate connects only processes that have GPUs.
    on_cpu = settings.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu)
    try:
        evaluate(settings)
    except (OSError, ValueError):
        if state.is_main_process:
            raise
        # The main process says what is wrong.
        return 2
    finally:
        state.destroy_process_group()
    return 0


def evaluate(settings: EvaluationSettings) -> None:
    """Measure the model, print the figures and write them into a file."""
    output_file = output_file_of(settings)
    check_output_file(output_file)
    check_inputs_are_kept(settings, output_file)
    notes, signatures = [], {}
    if has_metrics():
        from .metrics import signatures as signatures_of

        signatures = {} if settings.max_replies == 0 else signatures_of(bleu_tokenize=settings.bleu_tokenize)
    else:
        notes.append("BLEU, chrF and the nearest question are left out: pip install 'chatformer[metrics]' adds them.")
    chatbot = chatbot_of(settings)
    # Now, because a training may replace the weights meanwhile. A CTranslate2 model has none, and is not pushed.
    weights_sha256 = chatbot.folder.weights_sha256() if settings.engine == "transformers" else None
    run = run_settings(Path(settings.model))
    conversations, training, problem = data_of(settings, run, output_file.parent)
    if training is None:
        notes.append(
            "Seen answers, copied replies and baselines are left out, because the training data is not available: "
            f"{problem} Give it with --training-data."
        )
    unread = unread_part(chatbot.tokenizer, conversations)
    if unread is not None:
        notes.append(f"The data has {unread}, which the model's chat template leaves out.")
    exchanges = exchanges_of(conversations, chatbot, settings, run)
    if exchanges.num_too_long:
        notes.append(f"Left out for a reference that is too long: {counted(exchanges.num_too_long, 'exchange')}.")
    search = ReplySettings(
        num_beams=settings.num_beams,
        length_penalty=settings.length_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        max_new_tokens=settings.max_new_tokens,
        repetition_penalty=settings.repetition_penalty,
    ).search()
    outcome = outcome_of(
        chatbot.engine,
        chatbot.tokenizer,
        exchanges,
        max_replies=settings.max_replies,
        search=search,
        batch_tokens=settings.batch_tokens,
        show_progress=True,
    )
    # Every rank has all of the outcome; one reports it.
    if not PartialState().is_main_process:
        return
    known = None if training is None else questions_and_answers(training)
    prose = None
    if is_prose(conversations):
        # Prose has no right answer, which a baseline could find.
        comparison = compare(exchanges, outcome, None)
        prose, signatures = compare_prose(exchanges, outcome, known), {}
        everything = comparison.model["all"]
        assert everything is not None
        comparison = dataclasses.replace(comparison, model={"all": without_references(everything)})
    else:
        comparison = compare(exchanges, outcome, known, bleu_tokenize=settings.bleu_tokenize)
    pictures = pictures_of(
        exchanges,
        outcome,
        training=[answer for _, answer in known or ()],
        nearest_captions=comparison.baseline_replies.get("nearest question", ()),
        completed=completed_pixels(chatbot.engine, chatbot.tokenizer, exchanges),
    )
    tunes = tunes_of(
        exchanges,
        outcome,
        training=known or (),
        nearest=comparison.baseline_replies.get("nearest question", ()),
    )
    # As with prose: of the many tunes that a wish has, the reference is one.
    better = [] if tunes is not None else better_baselines(comparison, len(outcome.replies))
    if better:
        notes.append(" ".join([*sentences_about(better), WHAT_TO_DO]))
    by_turns = figures_by_turns(exchanges, outcome, bleu_tokenize=settings.bleu_tokenize)
    report = {
        **figures_in(comparison, by_turns),
        "pictures": None if pictures is None else dataclasses.asdict(pictures),
        "tunes": None if tunes is None else dataclasses.asdict(tunes),
        "prose": None if prose is None else dataclasses.asdict(prose),
        "signatures": signatures,
        "notes": notes,
        # Its value unless given is the model's, which a reader of the file may not have.
        "settings": dataclasses.asdict(settings) | {"repetition_penalty": chatbot.engine.repetition_penalty(search)},
        "weights_sha256": weights_sha256,
        **data_in(conversations, exchanges, training),
        "environment": versions(),
        "items": items(exchanges, outcome, comparison),
    }
    # Write first: the reader of stdout, such as `head`, may close the pipe.
    write(report, output_file)
    tables = [made for made in (pictures and pictures_table(pictures), tunes and tunes_table(tunes)) if made]
    show(settings.model, comparison, by_turns, tables, prose, samples(report["items"]), signatures, notes)
    print(f"All figures and replies: {output_file}")


def chatbot_of(settings: EvaluationSettings) -> Chatbot:
    """The model, on the device of this rank."""
    state = PartialState()
    chatbot = Chatbot.from_pretrained(
        settings.model,
        engine=settings.engine,
        revision=settings.revision,
        device=settings.device if settings.device and state.num_processes == 1 else str(state.device),
    )
    if state.is_main_process:
        chatbot.folder.show_commit()
    # transformers would warn of every text that is longer than those of the training; such texts are handled here.
    transformers.utils.logging.set_verbosity_error()
    return chatbot


def exchanges_of(
    conversations: Any, chatbot: Chatbot, settings: EvaluationSettings, run: TrainingSettings | None
) -> EncodedExchanges:
    """The exchanges as the model reads them; raise a `SettingsError` if none is short enough."""
    exchanges = encode_exchanges(
        conversations,
        chatbot.tokenizer,
        chatbot.max_source_tokens or sys.maxsize,
        settings.max_target_tokens or (run.tokenizer.max_target_tokens if run else sys.maxsize),
    )
    if not len(exchanges):
        raise SettingsError("Every reference is too long to measure the model on. Raise --max-target-tokens.")
    return exchanges


def output_file_of(settings: EvaluationSettings) -> Path:
    if settings.output_file is not None:
        return Path(settings.output_file)
    folder = Path(settings.model)
    return folder / EVALUATION_FILE if folder.is_dir() else Path(EVALUATION_FILE)


def check_inputs_are_kept(settings: EvaluationSettings, output_file: Path) -> None:
    """Raise a `StorageError` if a file to write is one of those that are read."""
    outputs = [output_file]
    if settings.skip_bad_rows:
        outputs += [output_file.with_name(name) for name in (EVALUATION_BAD_ROWS_FILE, BAD_TRAINING_ROWS_FILE)]
    inputs = {
        "--data": local_files(settings.data),
        "--training-data": local_files(settings.training_data),
        "the data of the run": own_files(run_settings(Path(settings.model))),
        f"the model in {settings.model}": model_files(settings.model, command="evaluate"),
    }
    check_kept(outputs, inputs, flag="--output-file")


def data_of(settings: EvaluationSettings, run: TrainingSettings | None, output_folder: Path) -> tuple[Any, Any, str]:
    """The conversations to measure on, those of the training or None, and why there are none."""
    conversations = training = None
    if settings.data:
        loaded = read_conversations(settings.data, settings, skip_bad_rows=settings.skip_bad_rows)
        loaded.bad_rows.report(output_folder / EVALUATION_BAD_ROWS_FILE)
        conversations = loaded.conversations
    if settings.training_data:
        loaded = read_conversations(settings.training_data, settings, skip_bad_rows=settings.skip_bad_rows)
        loaded.bad_rows.report(output_folder / BAD_TRAINING_ROWS_FILE)
        training = loaded.conversations
    problem = ""
    if conversations is None or training is None:
        try:
            own_training, own_validation = own_data(settings.model, run)
        except (OSError, ValueError) as error:
            problem = str(error)
            if conversations is None:
                raise SettingsError(f"There is nothing to measure on: {problem} Give --data.") from error
        else:
            training = own_training if training is None else training
            conversations = own_validation if conversations is None else conversations
    if not len(conversations):
        raise SettingsError(f"There is nothing to measure on: {settings.model} kept no validation data. Give --data.")
    return conversations, training, problem
