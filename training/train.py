"""
The training loop, on accelerate, readable from top to bottom.

    accelerate launch -m chatformer.training.train --recipe korean --output-dir runs/korean
"""

import contextlib
import dataclasses
import logging
import math
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from chatformer import ChatformerForConditionalGeneration, sized_config

from .batches import EncodedExchanges, collate, encode_exchanges, padding_share, plan_epoch, split_step
from .conversations import DataError, exchanges, load_conversations, split_conversations
from .evaluation import Evaluation, evaluate
from .records import BAD_ROWS_FILES, RunFolder, describe_data
from .schedules import make_scheduler
from .settings import ModelSettings, OptimizationSettings, SettingsError, TrainingSettings, parse_settings
from .tokenizer import train_tokenizer


def main(arguments: Sequence[str] | None = None, program: str = "python -m chatformer.training.train") -> int:
    """Train as a command line says; return the exit status."""
    # One progress bar is enough, and that the checkpoint stores tied weights once is as it should be.
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        settings = parse_settings(sys.argv[1:] if arguments is None else arguments, program=program)
        return train(settings)
    except (SettingsError, DataError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


@dataclasses.dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    target_tokens: int = 0
    best_figure: float | None = None
    best_step: int | None = None
    best_evaluation: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def train(settings: TrainingSettings) -> int:
    """Train a model as the settings say and write it to their output folder; return the exit status."""
    plan, run = settings.optimization, settings.run
    if not settings.data.data:
        raise SettingsError("There is no data to train on: name it with --data, or take a --recipe that has its own.")
    if run.output_dir is None and not run.dry_run:
        raise SettingsError("Say where the model is to be written: --output-dir DIR.")
    needs_replies = run.metric_for_best_model == "score"
    if needs_replies and not has_sacrebleu():
        raise SettingsError(
            "metric_for_best_model score needs sacreBLEU: pip install 'chatformer[metrics]', "
            "or choose by --metric-for-best-model loss."
        )
    accelerator = Accelerator(mixed_precision=chosen_precision(plan.mixed_precision))
    set_seed(plan.seed)
    folder = None if run.dry_run else RunFolder.prepared(accelerator, settings)

    # The data.
    training, validation = conversations_of(settings, folder)
    if folder is not None and run.resume:
        tokenizer = folder.load_tokenizer()
    else:
        has_history = any(len(history) > 1 for made in training for history, _ in exchanges(made["messages"]))
        tokenizer = train_tokenizer(texts_of(training), settings.tokenizer.vocab_size, has_history=has_history)
    limits = settings.tokenizer.max_source_tokens, settings.tokenizer.max_target_tokens
    tokenizer.model_max_length = settings.tokenizer.max_source_tokens
    told_before = with_other_topics(training, settings.data.other_topics_fraction, plan.seed)
    train_exchanges = encode_exchanges(told_before, tokenizer, *limits)
    eval_exchanges = encode_exchanges(validation, tokenizer, *limits)
    if not len(train_exchanges):
        raise DataError(f"No reply is at most --max-target-tokens ({limits[1]}) long: nothing is left to train on.")

    # The model, and what trains it.
    model = new_model(settings.model, tokenizer, max_new_tokens=settings.tokenizer.max_target_tokens)
    if accelerator.device.type == "cpu":
        # On CPUs the fused attention is slower to train at the lengths of conversations.
        model.set_attn_implementation("eager")
    epoch_plans = EpochPlans(train_exchanges, plan)
    num_steps = plan.max_steps or max(1, math.ceil(plan.num_train_epochs * epoch_plans.steps_per_epoch))
    eval_steps = run.eval_steps or math.ceil(num_steps / 10)
    save_steps = run.save_steps or eval_steps
    optimizer = make_optimizer(model, plan)
    scheduler = make_scheduler(
        plan.lr_scheduler_type,
        optimizer,
        d_model=model.config.d_model,
        warmup_steps=plan.warmup_steps,
        num_steps=num_steps,
    )
    average = AveragedModel(model, multi_avg_fn=averaging(plan.ema_decay)) if plan.ema_decay else None
    model, optimizer = accelerator.prepare(model, optimizer)
    if average is not None:
        average.to(accelerator.device)
        accelerator.register_for_checkpointing(average)
    progress = Progress()
    # The schedule counts optimizer steps; accelerate's own wrapper would count one for each process.
    accelerator.register_for_checkpointing(scheduler, progress)
    published: Any = accelerator.unwrap_model(model) if average is None else average.module

    overview = {
        "parameters": sum(parameter.numel() for parameter in published.parameters()),
        "vocabulary": len(tokenizer),
        "training_exchanges": len(train_exchanges),
        "validation_exchanges": len(eval_exchanges),
        "exchanges_left_out_as_too_long": train_exchanges.num_too_long + eval_exchanges.num_too_long,
        "target_tokens_per_epoch": int(train_exchanges.target_lengths.sum()),
        "steps_per_epoch": epoch_plans.steps_per_epoch,
        "steps": num_steps,
        "padding": round(padding_share(train_exchanges, epoch_plans.steps(0), num_parts(accelerator, plan)), 4),
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "mixed_precision": accelerator.mixed_precision,
    }
    if folder is None:
        estimate = try_out(accelerator, model, optimizer, train_exchanges, epoch_plans, plan, num_steps)
        if accelerator.is_main_process:
            print_dry_run(settings, overview | estimate)
        return 0
    if run.resume:
        folder.load_checkpoint(accelerator)
    if accelerator.is_main_process:
        data = describe_data(training, validation, settings)
        folder.begin(settings, overview, data, tokenizer, steps_done=progress.step)

    def step_once(step: int) -> dict[str, float]:
        """Take one optimizer step; return its figures."""
        indices = epoch_plans.step(step)
        parts = split_step(indices, num_parts(accelerator, plan))
        mine = parts[accelerator.process_index :: accelerator.num_processes]
        # Everyone knows the whole step, so nobody needs to ask how many tokens the others have.
        num_tokens = int(train_exchanges.target_lengths[indices].sum())
        total = torch.zeros((), device=accelerator.device)
        for number, part in enumerate(mine, start=1):
            batch = collate(train_exchanges, part, tokenizer.pad_token_id)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            is_last = number == len(mine)
            with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
                loss = model(**batch, num_items_in_batch=num_tokens, label_smoothing=plan.label_smoothing_factor).loss
                # Gradients are averaged over the processes, but each process has only its share of the sum.
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(model.parameters(), plan.max_grad_norm or math.inf)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if average is not None:
            average.update_parameters(accelerator.unwrap_model(model))
        loss = accelerator.reduce(total, reduction="sum").item()
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss is {loss} at step {step + 1}. Try a lower --learning-rate, more --warmup-steps or "
                "--mixed-precision no."
            )
        return {"loss": loss, "grad_norm": float(norm), "target_tokens": num_tokens}

    def evaluate_and_publish() -> None:
        """Evaluate, log, and publish the model if it is the best so far."""
        if not len(eval_exchanges):
            if accelerator.is_main_process:
                folder.publish(published, tokenizer)
            return
        evaluation, replies = evaluate(
            published, tokenizer, eval_exchanges, max_replies=run.max_eval_replies, with_chrf=has_sacrebleu()
        )
        if not accelerator.is_main_process:
            return
        figure = {
            "loss": -evaluation.loss,
            "exact_match": evaluation.exact_match,
            "score": evaluation.score,
        }[run.metric_for_best_model]
        assert figure is not None
        is_best = progress.best_figure is None or figure > progress.best_figure
        figures = evaluation_figures(evaluation)
        if is_best:
            progress.best_figure, progress.best_step, progress.best_evaluation = figure, progress.step, figures
            folder.publish(published, tokenizer)
        samples = sample_replies(eval_exchanges, replies, turn=progress.step // eval_steps)
        folder.log({"step": progress.step, "seconds": round(progress.seconds, 1), **figures, "samples": samples})
        bar.write(evaluation_line(progress.step, evaluation, is_best), file=sys.stderr)
        for sample in samples:
            bar.write(f"    {shortened(sample['source'])} → {shortened(sample['reply'])}", file=sys.stderr)

    interrupted = StopRequest()
    bar = tqdm(
        total=num_steps,
        initial=progress.step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )
    model.train()
    recent: list[dict[str, float]] = []
    with bar, interrupted:
        while progress.step < num_steps and not interrupted:
            began = time.perf_counter()
            recent.append(step_once(progress.step))
            progress.step += 1
            progress.seconds += time.perf_counter() - began
            progress.target_tokens += int(recent[-1]["target_tokens"])
            bar.update()
            is_end = progress.step == num_steps
            if progress.step % run.logging_steps == 0 or is_end:
                line = {
                    "step": progress.step,
                    "epoch": round(progress.step / epoch_plans.steps_per_epoch, 3),
                    "loss": sum(figures["loss"] for figures in recent) / len(recent),
                    "grad_norm": recent[-1]["grad_norm"],
                    "learning_rate": scheduler.get_last_lr()[0],
                    "tokens_per_second": round(progress.target_tokens / progress.seconds),
                    "seconds": round(progress.seconds, 1),
                }
                recent.clear()
                bar.set_postfix(loss=f"{line['loss']:.3f}", rate=f"{line['learning_rate']:.1e}")
                if accelerator.is_main_process:
                    folder.log(line)
            if progress.step % eval_steps == 0 or is_end:
                began = time.perf_counter()
                evaluate_and_publish()
                progress.seconds += time.perf_counter() - began
            if progress.step % save_steps == 0 or is_end or interrupted:
                folder.save_checkpoint(accelerator)
    if accelerator.is_main_process:
        folder.finish(progress, num_steps)
    accelerator.end_training()
    return 130 if interrupted and progress.step < num_steps else 0


def conversations_of(settings: TrainingSettings, folder: "RunFolder | None") -> tuple[Any, Any]:
    """Load the training and validation conversations."""
    data = settings.data
    common: dict[str, Any] = {
        "question_column": data.question_column,
        "answer_column": data.answer_column,
        "messages_column": data.messages_column,
        "encoding": data.encoding,
        "split": data.dataset_split,
        "revision": data.dataset_revision,
    }

    def bad_rows(name: str) -> Path | None:
        return folder.path / name if folder is not None and data.skip_bad_rows else None

    conversations = load_conversations(
        paths_of(data.data), sha256=data.data_sha256, skip_bad_rows=bad_rows(BAD_ROWS_FILES[0]), **common
    )
    if data.validation_data:
        return conversations, load_conversations(
            paths_of(data.validation_data), skip_bad_rows=bad_rows(BAD_ROWS_FILES[1]), **common
        )
    return split_conversations(
        conversations, validation_fraction=data.validation_fraction, seed=settings.optimization.seed
    )


def paths_of(data: tuple[str, ...]) -> str | tuple[str, ...]:
    """Return where `data` lies; "starter" is the corpus that comes with the package."""
    if data == ("starter",):
        return str(resources.files("chatformer.training").joinpath("starter/conversations.jsonl"))
    return data[0] if len(data) == 1 else data


def texts_of(conversations: Any) -> Iterator[str]:
    """Yield what the tokenizer learns from: every message."""
    for conversation in conversations:
        for message in conversation["messages"]:
            yield message["content"]


def with_other_topics(conversations: Any, fraction: float, seed: int) -> Iterator[dict[str, Any]]:
    """
    Yield the conversations, and behind `fraction` of them once more after another one.

    So a model learns that the turns before need not concern the last one.
    """
    chance = random.Random(seed)
    yield from conversations
    for index in range(len(conversations) if fraction else 0):
        if chance.random() < fraction:
            before = conversations[chance.randrange(len(conversations))]["messages"]
            messages = conversations[index]["messages"]
            if "system" not in (before[0]["role"], messages[0]["role"]):
                yield {"messages": [*before, *messages]}


def new_model(settings: ModelSettings, tokenizer: Any, max_new_tokens: int) -> ChatformerForConditionalGeneration:
    """Return a model with random weights that fits the tokenizer and knows when its replies end."""
    changes = dataclasses.asdict(settings)
    config = sized_config(
        changes.pop("size"),
        **changes,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    model = ChatformerForConditionalGeneration(config)
    model.generation_config.max_new_tokens = max_new_tokens
    return model


def make_optimizer(model: torch.nn.Module, plan: OptimizationSettings) -> torch.optim.Optimizer:
    """Return AdamW, its decay kept off biases, norms and the embedding."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)} - {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=plan.learning_rate,
        betas=(plan.adam_beta1, plan.adam_beta2),
        eps=plan.adam_epsilon,
        fused=True,
    )


def averaging(decay: float) -> Any:
    """
    Return how `AveragedModel` averages: exponentially with `decay`, faster over the first steps.

    The decay at the n-th update is min(decay, (1 + n) / (10 + n)), so that the random first weights are soon forgotten.
    """

    @torch.no_grad()
    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], num_averaged: torch.Tensor | int) -> None:
        n = int(num_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


class EpochPlans:
    """The steps of a run, planned epoch by epoch."""

    def __init__(self, exchanges: EncodedExchanges, plan: OptimizationSettings):
        self.exchanges = exchanges
        self.plan = plan
        self.epoch = -1
        self.steps_per_epoch = len(self.steps(0))

    def steps(self, epoch: int) -> list[Any]:
        if epoch != self.epoch:
            self.epoch = epoch
            self.current = plan_epoch(self.exchanges, self.plan.tokens_per_step, self.plan.seed, epoch)
        return self.current

    def step(self, number: int) -> Any:
        """Return the indices of the run's `number`-th step, counted from 0."""
        return self.steps(number // self.steps_per_epoch)[number % self.steps_per_epoch]


def num_parts(accelerator: Accelerator, plan: OptimizationSettings) -> int:
    return accelerator.num_processes * plan.gradient_accumulation_steps


def chosen_precision(mixed_precision: str) -> str:
    """Return the precision that "auto" stands for on this machine."""
    if mixed_precision != "auto":
        return mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def has_sacrebleu() -> bool:
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        return False
    return True


class StopRequest:
    """
    While entered, turns Ctrl-C and SIGTERM into a request to stop after the step; a second Ctrl-C stops at once.

    True once a stop is wanted.
    """

    def __init__(self) -> None:
        self.wanted = False

    def __bool__(self) -> bool:
        return self.wanted

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True
        # Written directly: the handler may run in the middle of a print.
        os.write(2, b"\nstopping after this step; the checkpoint is being saved\n")


def evaluation_figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures by the names they have in the log."""
    figures = dataclasses.asdict(evaluation) | {"score": evaluation.score}
    return {f"eval_{name}": value for name, value in figures.items() if value is not None}


def evaluation_line(step: int, evaluation: Evaluation, is_best: bool) -> str:
    parts = [f"step {step}: loss {evaluation.loss:.3f}", f"{evaluation.bits_per_character:.3f} bits per character"]
    parts.append(f"{evaluation.source_gain:.3f} of them saved by listening")
    if evaluation.chrf is not None:
        parts.append(f"chrF {evaluation.chrf:.1f}")
    if evaluation.exact_match is not None:
        parts.append(f"exact {evaluation.exact_match:.1f}%")
        parts.append(f"{evaluation.distinct_replies} distinct replies")
    return ", ".join(parts) + (" (best so far)" if is_best else "")


def sample_replies(
    exchanges: EncodedExchanges, replies: Sequence[str], turn: int, count: int = 3
) -> list[dict[str, str]]:
    """Return a few replies to look at, others at each `turn`."""
    chosen = sorted({(turn * count + offset) % len(replies) for offset in range(count)}) if replies else []
    return [
        {
            "source": exchanges.histories[index][-1]["content"],
            "reply": replies[index],
            "reference": exchanges.replies[index],
        }
        for index in chosen
    ]


def shortened(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def try_out(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: Any,
    exchanges: EncodedExchanges,
    plans: EpochPlans,
    plan: OptimizationSettings,
    num_steps: int,
    tries: int = 5,
) -> dict[str, Any]:
    """Take a few real steps, to estimate the run's time and memory."""
    import resource

    seconds = []
    for number in range(tries):
        began = time.perf_counter()
        for part in split_step(plans.step(number), num_parts(accelerator, plan)):
            batch = collate(exchanges, part, accelerator.unwrap_model(model).config.pad_token_id)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            accelerator.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    if accelerator.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        # Kibibytes on Linux, bytes on macOS.
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    median = sorted(seconds)[tries // 2]
    return {
        "estimated_minutes_without_evaluation": round(num_steps * median / 60, 1),
        "estimated_memory_gib": round(memory / 2**30, 2),
    }


def print_dry_run(settings: TrainingSettings, overview: dict[str, Any]) -> None:
    """Print what would run."""
    from rich.console import Console
    from rich.table import Table

    for title, entries in (("settings", settings.flat()), ("run", overview)):
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in entries.items():
            if value is not None:
                table.add_row(name, " ".join(value) if isinstance(value, tuple) else str(value))
        Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
