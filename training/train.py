"""
Train a model: what `chatformer train` runs, and the entry point for several processes.

    accelerate launch -m chatformer.training.train --recipe korean --output-dir runs/korean
"""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed

from chatformer.configuration.data import BleuTokenize
from chatformer.configuration.declaring import SettingsError, without_effect
from chatformer.configuration.recipes import parse_settings, settings_of_run
from chatformer.configuration.training import METRICS_BY_PACKAGES, RunSettings, TrainingSettings, check_settings
from chatformer.data.exchanges import EncodedExchanges
from chatformer.data.preparation import PreparedData, prepare_data
from chatformer.data.unread import unread_part
from chatformer.evaluation.doctor.run_log import RunLog
from chatformer.evaluation.doctor.trial import FEW_QUESTIONS, different_questions
from chatformer.evaluation.doctor.verdict import verdict
from chatformer.evaluation.figures import evaluate, has_metrics
from chatformer.storage.explaining import counted
from chatformer.storage.names import BAD_ROWS_FILES, SETTINGS_FILE
from chatformer.storage.printing import print_in_any_encoding, warn

from .building import chosen_precision
from .distributed import from_main_process, is_only_one_of_several, keep_freed_memory, make_accelerator
from .output import RunFolder, describe_data
from .pace import Pace, measure_pace, try_out
from .planning import Facts, facts_of, plan_for_minutes, planned
from .reporting import announce, end_message, evaluation_figures, print_dry_run, sample_replies, stop_message
from .resuming import judged_by
from .run import OnPublished, Run
from .tracking import check_trackers, start_trackers
from .verify_resume import verify_resume

QUESTIONS_OF_A_VERDICT = 50


def as_begun(settings: TrainingSettings) -> TrainingSettings:
    """Settings of a run to resume: what they leave open is as the run began."""
    folder = Path(settings.run.output_dir or ".")
    return settings.filled(settings_of_run(folder)) if (folder / SETTINGS_FILE).is_file() else settings


def check_metrics(name: str | None, bleu_tokenize: BleuTokenize) -> None:
    """Raise an error, now and not after hours, if what is to be computed of replies cannot be computed here."""
    if has_metrics() and bleu_tokenize != RunSettings.bleu_tokenize:
        from chatformer.evaluation.metrics import signatures

        # It raises one if a package is missing.
        signatures(bleu_tokenize=bleu_tokenize)
    if name in METRICS_BY_PACKAGES and not has_metrics():
        raise SettingsError(
            f"--metric-for-best-model {name} compares replies by packages that are missing. Run: "
            "pip install 'chatformer[metrics]', or take loss or last."
        )


def report_unread(data: PreparedData, settings: TrainingSettings, folder: RunFolder | None) -> None:
    """Report rows that are no conversation, exchanges that are too long, and parts that the model cannot read."""
    for bad_rows, name in zip((data.bad_rows, data.bad_validation_rows), BAD_ROWS_FILES, strict=True):
        bad_rows.report(None if folder is None else folder.path / name)
    limits = settings.tokenizer
    for exchanges, what in ((data.train_exchanges, "learn"), (data.eval_exchanges, "validate on")):
        if exchanges.num_too_long:
            parts = f"replies of more than --max-target-tokens ({limits.max_target_tokens})"
            if limits.too_long == "drop":
                parts += f" or inputs of more than --max-source-tokens ({limits.max_source_tokens})"
            num_all = exchanges.num_too_long + exchanges.num_alone
            warn(f"left out of {counted(num_all, 'exchange')} to {what}: {exchanges.num_too_long:,}, with {parts}.")
        if num_cut := num_cut_questions(exchanges, limits.max_source_tokens):
            warn(
                f"of {counted(exchanges.num_alone, 'exchange')} to {what}, the question of {num_cut:,} has "
                f"--max-source-tokens ({limits.max_source_tokens}) or more, and its beginning is not read."
            )
    if repeats_its_questions(data.train_exchanges):
        warn(
            "most replies are the questions themselves, so that repeating is all there is to learn. Does --data name "
            "one file twice?"
        )
    if (unread := unread_part(data.tokenizer, data.validation)) is not None:
        warn(
            f"the validation data has {unread}, which the model will not read: the training data has none, so the "
            "chat template leaves them out."
        )


def repeats_its_questions(exchanges: EncodedExchanges) -> bool:
    """True if most replies equal their question, as those of a file that is read as both sides do."""
    rows = exchanges.rows.select(range(min(exchanges.num_alone, 1000)))
    equal = [history[-1]["content"] == reply for history, reply in zip(rows["history"], rows["reply"], strict=True)]
    return sum(equal) > len(equal) / 2


def num_cut_questions(exchanges: EncodedExchanges, max_source_tokens: int) -> int:
    """About how many sources are a single question that fills all tokens, as one does that was cut."""
    full = np.flatnonzero(exchanges.source_lengths[: exchanges.num_alone] == max_source_tokens)
    # A thousand tell it of millions.
    histories = exchanges.rows.select(full[:1000])["history"]
    are_single = [sum(message["role"] != "system" for message in history) == 1 for history in histories]
    return round(len(full) * float(np.mean(are_single))) if are_single else 0


def with_plan(
    settings: TrainingSettings, data: PreparedData, accelerator: Accelerator, facts: Facts
) -> tuple[TrainingSettings, Pace | None]:
    """The settings with a plan for those that were not given, and the pace of their steps if it can be measured."""

    def measure(settings: TrainingSettings) -> Pace | None:
        return measure_pace(settings, data, accelerator)

    pace = None
    settings = settings.changed({"other_topics_fraction": data.other_topics_fraction}, where="plan")
    if settings.optimization.minutes is None:
        settings = planned(settings, facts)
    else:
        settings, pace = plan_for_minutes(settings, facts, measure)
    # The plan turned --minutes into --max-steps, which together would be refused as given twice.
    check_settings(settings.changed({"minutes": None}, where="plan"))
    return settings, pace or measure(settings)


def announce_run(run: Run, figures: dict[str, Any], facts: Facts, pace: Pace | None) -> None:
    """Print what is about to run, once its checkpoint is loaded, which decides how many steps are left."""
    steps_left = run.num_steps - run.progress.step
    announce(
        run.settings,
        facts,
        num_parameters=figures["parameters"],
        num_steps=run.num_steps,
        minutes=None if pace is None else pace.minutes(steps_left, run.eval_steps),
    )


def load_state(run: Run, folder: RunFolder, description: dict[str, Any]) -> None:
    """Load the last checkpoint of a run that is resumed; raise a `SettingsError` if the run cannot go on from it."""
    judging = before = judged_by(run.settings, description["validation_sha256"])
    if folder.begun_with is not None:
        if not run.settings.run.resume_changed:
            folder.check_data(description)
        for problem in folder.load_checkpoint(run.accelerator, run.settings.optimization.seed):
            if run.accelerator.is_main_process:
                warn(problem)
        run.go_on(folder.begun_with)
        before = judged_by(folder.begun_with, folder.begun_with_data.get("validation_sha256"))
    run.progress.judge_by(judging, before=before)


def show_verdict(run: Run, folder: RunFolder) -> None:
    """Print, at the very end, what is wrong with the published model, in the doctor's words."""
    log = RunLog.of(folder.path)
    if log is None:
        return
    exchanges, step = run.data.train_exchanges.alone, run.progress.best_step
    answers = Counter(exchanges.replies)
    num_replies = min(len(run.data.eval_exchanges), run.settings.run.max_eval_replies)
    if num_replies < FEW_QUESTIONS and run.accelerator.num_processes == 1:
        # Too few replies to judge by: questions from the training show at least what was learnt.
        questions = different_questions(exchanges, QUESTIONS_OF_A_VERDICT)
        evaluation, replies = evaluate(run.published, run.data.tokenizer, questions, max_replies=len(questions))
        figures = {**evaluation_figures(evaluation), "samples": sample_replies(questions, replies, turn=0)}
        log, step, num_replies = RunLog(log.settings, [{"step": run.progress.step, **figures}]), None, len(replies)
    findings = verdict(
        log,
        num_replies=num_replies,
        step=step,
        most_frequent_answer=answers.most_common(1)[0][1] / answers.total(),
    )
    for finding in findings:
        print(f"\nwarning: {finding.title}. {finding.found}\n{finding.what_to_do}", file=sys.stderr)
    if findings:
        print(f"`chatformer doctor {folder.path}` looks closer.", file=sys.stderr)


def train(settings: TrainingSettings, on_published: OnPublished | None = None) -> int:
    """
    Train a model and write it to the output folder of the settings; return the exit status.

    With `push_to_hub`, `on_published` shares the folder at the end, and during the run as `hub_strategy` says.
    """
    check_settings(settings)
    check_trackers(settings.run.log_with)
    if not settings.run.push_to_hub:
        on_published = None
    elif on_published is None and not settings.run.dry_run:
        raise SettingsError(
            "--push-to-hub needs `chatformer train`, with several processes "
            "`accelerate launch -m chatformer.cli.main train`, instead of chatformer.training.train, which trains only."
        )
    accelerator = make_accelerator(
        chosen_precision(settings.optimization.mixed_precision), max_grad_norm=settings.optimization.max_grad_norm
    )
    if is_only_one_of_several():
        warn(
            "this is the only process. With --cpu, or without a GPU, accelerate launch starts several only with "
            "--multi_gpu, which is right for CPUs too: accelerate launch --multi_gpu --num_processes 2 ..."
        )
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    elif accelerator.device.type == "cuda":
        # It prepares each shape of a batch, which takes longer than a step, and batches have many.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if settings.run.resume:
        settings = as_begun(settings)
    check_metrics(settings.run.metric_for_best_model, settings.run.bleu_tokenize)
    # A dry run needs no folder, but refuses what a run in that folder would refuse.
    folder = None if settings.run.output_dir is None else RunFolder.prepared(accelerator, settings)
    data = prepare_data(
        settings,
        tokenizer=folder.load_tokenizer(settings) if folder is not None and settings.run.resume else None,
        main_first=accelerator.main_process_first,
        from_main=from_main_process,
    )
    if accelerator.is_main_process:
        report_unread(data, settings, None if settings.run.dry_run else folder)
    facts = facts_of(data, accelerator)
    settings, pace = with_plan(settings, data, accelerator, facts)
    set_seed(settings.optimization.seed)
    run = Run(settings, accelerator, data, on_published)
    description = describe_data(data.training, data.validation, settings)
    if folder is not None:
        load_state(run, folder, description)
    figures = run.figures() if accelerator.is_main_process else {}
    if accelerator.is_main_process:
        announce_run(run, figures, facts, pace)
    if settings.run.dry_run:
        estimate = try_out(run.rehearse, run.take_step_at_once, run.num_steps - run.progress.step, accelerator.device)
        if pace is not None:
            # The pace that was announced, and not another one.
            minutes = (run.num_steps - run.progress.step) * pace.step / 60
            estimate["estimated_minutes_without_evaluation"] = round(minutes, 1)
        if accelerator.is_main_process:
            print_dry_run(settings, figures | estimate)
        return 0
    assert folder is not None
    if accelerator.is_main_process:
        folder.begin(settings, figures, description, data.tokenizer, steps_done=run.progress.step)
        start_trackers(accelerator, folder, settings.run.log_with, settings.flat(), steps_done=run.progress.step)
    had_finished = run.progress.step >= run.num_steps
    finished = run.go(folder)
    if accelerator.is_main_process:
        folder.finish(run.progress, finished=finished)
        print((end_message if finished else stop_message)(folder.path, run.progress), file=sys.stderr)
        # The published weights of a run that had finished are in its folder alone, and were judged.
        if finished and not had_finished:
            show_verdict(run, folder)
        if finished and on_published is not None:
            on_published(folder.path)
    # The launcher ends all processes after the first one that ends with another status than 0.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 0 if finished else 130


def run_command(settings: TrainingSettings, on_published: OnPublished | None = None) -> int:
    """Train, or verify that the run can be resumed, as a command does; return the exit status."""
    # It is intended that a checkpoint stores tied weights once.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return verify_resume(settings) if settings.run.verify_resume else train(settings, on_published)


def main(arguments: Sequence[str] | None = None, program: str = "python -m chatformer.training.train") -> int:
    """Train with the settings of a command line; return the exit status."""
    # One progress bar is enough.
    transformers.utils.logging.disable_progress_bar()
    try:
        settings = parse_settings(sys.argv[1:] if arguments is None else arguments, program=program)
        warn(*without_effect(settings))
        return run_command(settings)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    print_in_any_encoding()
    sys.exit(main())
