"""
What a resumed run makes of a setting that differs from the one that the run began with.

Each setting has a row: another value is free, or takes effect with --resume-changed, or is refused. The weights, the
tokenizer and the state of the optimizer come from the checkpoint; everything else is made of the settings as they are
now.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from chatformer.configuration.declaring import SettingsError, flag
from chatformer.configuration.training import LENGTHS, METRICS_WITHOUT_REPLIES, TrainingSettings

from .progress import Progress
from .schedules import restart_schedule

Values = Mapping[str, Any]
"""Every setting by the name of its flag."""


@dataclass(frozen=True)
class Row:
    """What becomes of another value."""

    effect: Literal["free", "applied", "refused"]
    """Free needs no --resume-changed, since the run learns the same; refused needs another run."""
    reason: str
    """Why it is free, how it is applied, or why it is refused."""
    is_refused: Callable[[Values, Values], bool] | None = None
    """For a setting that is applied: whether this change of it, from the values before to those now, is refused."""
    refusal: str = ""
    """Why that change is refused."""


def _turns_on_or_off(name: str) -> Callable[[Values, Values], bool]:
    return lambda before, now: bool(before[name]) != bool(now[name])


def _to_or_from(name: str, value: str) -> Callable[[Values, Values], bool]:
    return lambda before, now: (before[name] == value) != (now[name] == value)


def _means_another_rate(before: Values, now: Values) -> bool:
    return _to_or_from("lr_scheduler_type", "noam")(before, now) and before["learning_rate"] == now["learning_rate"]


SAME_CONTENT = Row("free", "the content of the data is compared, not its place or form")
THIS_COMMAND = Row("free", "it is about this command, not about what is learnt")
SHAPE = Row("refused", "the weights have the shape that the run began with")
FIRST_WEIGHTS = Row("refused", "the first weights were drawn when the run began")
LOOKS = Row("refused", "the weights have learnt to look where it lets them")
TOKENS = Row("refused", "the tokenizer was trained when the run began")
DATA = Row("applied", "the data is read, split and encoded by it")
NOISE = Row("applied", "from the next step on, the sources are changed by it")
MODEL = Row("applied", "the model is made by it, before it takes the checkpoint's weights")
STEPS = Row("applied", "from the next step on, in every step")
SCHEDULE = Row("applied", "the rate of the next step is that of the schedule of all steps, from the first to the last")
OPTIMIZER = Row("applied", "it takes the place of what the optimizer's state has")
EVALUATIONS = Row("applied", "from the next evaluation or checkpoint on")

NO_AVERAGE = "an average is kept from the first step on, or not at all"

TABLE: Mapping[str, Row] = {
    "recipe": Row("free", "its settings are compared one by one"),
    # The data
    "data": SAME_CONTENT,
    "data_sha256": SAME_CONTENT,
    "validation_data": SAME_CONTENT,
    "question_column": SAME_CONTENT,
    "answer_column": SAME_CONTENT,
    "messages_column": SAME_CONTENT,
    "system_column": SAME_CONTENT,
    "context_column": SAME_CONTENT,
    "sheet": SAME_CONTENT,
    "encoding": SAME_CONTENT,
    "data_format": SAME_CONTENT,
    "dataset_split": SAME_CONTENT,
    "dataset_revision": SAME_CONTENT,
    "dataset_streaming": SAME_CONTENT,
    "skip_bad_rows": SAME_CONTENT,
    "validation_fraction": DATA,
    "split_seed": DATA,
    "max_train_samples": DATA,
    "data_repeats": DATA,
    "other_topics_fraction": Row("refused", "the chat template was chosen for it when the run began"),
    "token_dropout": NOISE,
    "word_swap": NOISE,
    "bpe_dropout": NOISE,
    "preprocessing_num_workers": THIS_COMMAND,
    "vocab_size": TOKENS,
    "max_source_tokens": DATA,
    "max_target_tokens": DATA,
    "too_long": DATA,
    # The model
    "architecture": SHAPE,
    "size": SHAPE,
    "d_model": SHAPE,
    "d_embedding": SHAPE,
    "d_attention": SHAPE,
    "d_ff": SHAPE,
    "num_heads": SHAPE,
    "self_attention": LOOKS,
    "stride": LOOKS,
    "summary_size": LOOKS,
    "encoder_layers": SHAPE,
    "decoder_layers": SHAPE,
    "dropout": MODEL,
    "attention_dropout": MODEL,
    "activation_dropout": MODEL,
    "embedding_initializer_range": FIRST_WEIGHTS,
    "repetition_penalty": MODEL,
    "temperature": MODEL,
    "top_p": MODEL,
    # The optimization
    "minutes": Row("refused", "it plans a new run"),
    "num_train_epochs": SCHEDULE,
    "max_steps": SCHEDULE,
    "tokens_per_step": STEPS,
    "gradient_accumulation_steps": Row("free", "the steps keep their tokens, and are split into so many parts"),
    "learning_rate": SCHEDULE,
    "lr_scheduler_type": Row(
        "applied",
        SCHEDULE.reason,
        _means_another_rate,
        'for "noam" --learning-rate is a factor, for the others a rate: give it as well',
    ),
    "warmup_steps": SCHEDULE,
    "adam_beta1": OPTIMIZER,
    "adam_beta2": OPTIMIZER,
    "adam_epsilon": OPTIMIZER,
    "weight_decay": OPTIMIZER,
    "max_grad_norm": STEPS,
    "label_smoothing_factor": STEPS,
    "rdrop_alpha": STEPS,
    "dropout_until": STEPS,
    "ema_decay": Row("applied", STEPS.reason, _turns_on_or_off("ema_decay"), NO_AVERAGE),
    "average_checkpoints": Row("applied", EVALUATIONS.reason, _turns_on_or_off("average_checkpoints"), NO_AVERAGE),
    "mixed_precision": Row(
        "applied",
        STEPS.reason,
        _to_or_from("mixed_precision", "fp16"),
        "fp16 scales the loss by a factor that it finds from the beginning of a run on",
    ),
    "torch_compile": STEPS,
    "seed": Row("refused", "the split and the first weights were drawn with it"),
    # The run
    "output_dir": Row("free", "a folder may be moved"),
    "logging_steps": THIS_COMMAND,
    "log_with": THIS_COMMAND,
    "eval_steps": EVALUATIONS,
    "save_steps": EVALUATIONS,
    "save_total_limit": THIS_COMMAND,
    "metric_for_best_model": Row("applied", "the next evaluation is the first that another one is compared with"),
    "early_stopping_patience": EVALUATIONS,
    "max_eval_replies": EVALUATIONS,
    "bleu_tokenize": EVALUATIONS,
    "push_to_hub": THIS_COMMAND,
    "hub_model_id": THIS_COMMAND,
    "hub_strategy": THIS_COMMAND,
    "hub_private_repo": THIS_COMMAND,
    "hub_samples": THIS_COMMAND,
    "resume": THIS_COMMAND,
    "resume_changed": THIS_COMMAND,
    "overwrite_output_dir": THIS_COMMAND,
    "dry_run": THIS_COMMAND,
    "verify_resume": THIS_COMMAND,
}
"""Every setting of a training."""

JUDGED_BY = ("metric_for_best_model", "max_source_tokens", "max_target_tokens", "too_long", "repetition_penalty")
"""Settings that a figure of an evaluation depends on: with others, a run looks for its own best model."""


def check_changes(folder: Path, begun_with: TrainingSettings, settings: TrainingSettings) -> None:
    """Raise a `SettingsError` for settings that cannot change, or may not without --resume-changed."""
    before, now = begun_with.flat(), settings.flat()
    changed = [name for name in TABLE if now[name] != before[name] and TABLE[name].effect != "free"]
    refusals = {name: refusal for name in changed if (refusal := refusal_of(name, before, now))}
    if refusals:
        raise SettingsError(
            f"The run in {folder} cannot be resumed with other values of these settings:"
            + "".join(f"{_difference(name, before, now)}: {refusal}" for name, refusal in refusals.items())
            + "\nLeave them as they were, or begin another run with them."
        )
    if changed and not settings.run.resume_changed:
        raise SettingsError(
            f"The run in {folder} began with other settings:"
            + "".join(_difference(name, before, now) for name in changed)
            + "\nLeave them as they were, or add --resume-changed to continue with the new ones."
        )


def refusal_of(name: str, before: Values, now: Values) -> str | None:
    """Why a changed setting is refused, or None if it is not."""
    row = TABLE[name]
    if row.effect == "refused":
        return row.reason
    return row.refusal if row.is_refused is not None and row.is_refused(before, now) else None


def _difference(name: str, before: Values, now: Values) -> str:
    return f"\n    {name}: {before[name]} before, {now[name]} now"


def check_steps_left(settings: TrainingSettings, steps_done: int, num_steps: int) -> None:
    """Raise a `SettingsError` if a run has taken more steps than the settings allow."""
    if steps_done > num_steps:
        name = next(name for name in LENGTHS if getattr(settings.optimization, name) is not None)
        raise SettingsError(
            f"The run has taken {steps_done:,} steps, and {flag(name)} {getattr(settings.optimization, name)} allows "
            f"{num_steps:,}: give more, or begin another run."
        )


def go_on(
    settings: TrainingSettings,
    begun_with: TrainingSettings,
    progress: Progress,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    hyperparameters: Sequence[dict[str, Any]],
) -> None:
    """
    Give effect to settings that differ from those that a checkpoint, which was loaded, brought with it.

    `hyperparameters` are those of the optimizer's groups, as the settings have them.
    """
    for group, values in zip(scheduler.optimizer.param_groups, hyperparameters, strict=True):
        group |= values
    restart_schedule(scheduler, [group["lr"] for group in hyperparameters])
    micro_batches = settings.optimization.gradient_accumulation_steps
    # Unless it has changed, there may be more of them by now, as memory ran out.
    if micro_batches != (progress.micro_batches_set or begun_with.optimization.gradient_accumulation_steps):
        progress.micro_batches = micro_batches
    progress.micro_batches_set = micro_batches


def judged_by(settings: TrainingSettings, validation_sha256: str | None) -> dict[str, Any]:
    """What the figures of evaluations depend on; they can be compared only if it is equal."""
    values = settings.flat()
    has_replies = values["metric_for_best_model"] not in METRICS_WITHOUT_REPLIES
    names = (*JUDGED_BY, "max_eval_replies") if has_replies else JUDGED_BY
    if values["metric_for_best_model"] == "bleu":
        names = (*names, "bleu_tokenize")
    return {name: values[name] for name in names} | {"validation_sha256": validation_sha256}
