"""
The training loop, on accelerate, readable from top to bottom.

    accelerate launch -m chatformer.training.train --recipe korean --output-dir runs/korean
"""

import contextlib
import copy
import dataclasses
import functools
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from chatformer.data.batches import collate, padding_share, split_step
from chatformer.data.exchanges import EncodedExchanges
from chatformer.data.messages import DataError
from chatformer.data.noise import SourceNoise
from chatformer.data.preparation import PreparedData, prepare_data
from chatformer.data.unread import unread_part
from chatformer.evaluation.doctor.run_log import RunLog
from chatformer.evaluation.doctor.trial import FEW_QUESTIONS, different_questions
from chatformer.evaluation.doctor.verdict import verdict
from chatformer.evaluation.figures import Evaluation, evaluate, has_metrics
from chatformer.storage.names import SETTINGS_FILE

from .averaging import CheckpointAverage, MovingAverage, copy_weights
from .building import EpochPlans, chosen_precision, make_optimizer, new_model, ready_to_train
from .guards import Interrupted, StopRequest, is_out_of_memory, what_is_wrong
from .objective import training_loss
from .pace import Pace, measured
from .planning import Facts, overview, plan_for_minutes, planned, shortcomings
from .processes import from_main_process, keep_freed_memory, make_accelerator
from .progress import Progress
from .records import BAD_ROWS_FILES, RunFolder, describe_data
from .schedules import make_scheduler
from .settings import (
    LOWER_IS_BETTER,
    SettingsError,
    TrainingSettings,
    check_settings,
    decided,
    parse_settings,
    read_recipe,
)

QUESTIONS_OF_A_VERDICT = 50

OnPublished = Callable[[Path], None]
"""What is done, on the main process, with an output folder that is to be shared as it is now."""


def main(
    arguments: Sequence[str] | None = None,
    program: str = "python -m chatformer.training.train",
    on_published: OnPublished | None = None,
) -> int:
    """Train as a command line says; return the exit status."""
    # One progress bar is enough, and that the checkpoint stores tied weights once is as it should be.
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        settings = parse_settings(sys.argv[1:] if arguments is None else arguments, program=program)
        if settings.run.verify_resume:
            from .verify_resume import verify_resume

            return verify_resume(settings)
        return train(settings, on_published)
    except (SettingsError, DataError, TrainingFailed, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


class TrainingFailed(RuntimeError):
    """A run that cannot go on as it is: the message says at which step and what to try."""


def train(settings: TrainingSettings, on_published: OnPublished | None = None) -> int:
    """
    Train a model as the settings say and write it to their output folder; return the exit status.

    `on_published` shares the folder where they say `push_to_hub`, at the end and whenever `hub_strategy` has it.
    """
    check_settings(settings)
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
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if settings.run.resume:
        begun_with = Path(settings.run.output_dir or ".") / SETTINGS_FILE
        if begun_with.is_file():
            settings = settings.filled(read_recipe(str(begun_with)))
    folder = None if settings.run.dry_run else RunFolder.prepared(accelerator, settings)
    data = prepare_data(
        settings,
        tokenizer=folder.load_tokenizer() if folder is not None and settings.run.resume else None,
        main_first=accelerator.main_process_first,
        from_main=from_main_process,
    )
    if accelerator.is_main_process:
        for bad_rows, name in zip((data.bad_rows, data.bad_validation_rows), BAD_ROWS_FILES, strict=True):
            bad_rows.report(None if folder is None else folder.path / name)
        if (unread := unread_part(data.tokenizer, data.validation)) is not None:
            print(
                f"warning: the validation data has {unread}, which the model will not read: the training data has "
                "none, so the chat template leaves them out.",
                file=sys.stderr,
            )
    facts = facts_of(data, accelerator)
    settings = settings.changed({"other_topics_fraction": data.other_topics_fraction}, where="plan")
    if settings.optimization.minutes is None:
        settings = planned(settings, facts)
    else:
        settings = plan_for_minutes(settings, facts, lambda tried: measured(tried, data, accelerator))
    check_settings(settings)
    pace = measured(settings, data, accelerator)
    set_seed(settings.optimization.seed)
    run = Run(settings, accelerator, data, on_published)
    if folder is None:
        figures = run.overview()
        if accelerator.is_main_process:
            announce(run, facts, figures["parameters"], pace)
        estimate = run.try_out()
        if accelerator.is_main_process:
            print_dry_run(settings, figures | estimate)
        return 0
    description = describe_data(data.training, data.validation, settings)
    if settings.run.resume:
        if not settings.run.resume_changed:
            folder.check_data(description)
        folder.load_checkpoint(accelerator)
    if accelerator.is_main_process:
        figures = run.overview()
        # Behind the checkpoint, which says how many steps are left.
        announce(run, facts, figures["parameters"], pace)
        folder.begin(settings, figures, description, data.tokenizer, steps_done=run.progress.step)
    finished = run.go(folder)
    if accelerator.is_main_process:
        folder.finish(run.progress, finished=finished)
        if finished:
            show_verdict(run, folder)
        if finished and on_published is not None:
            on_published(folder.path)
    # The first process to end with another status than 0 has the launcher end all the others.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 0 if finished else 130


def facts_of(data: PreparedData, accelerator: Accelerator) -> Facts:
    """What the plan follows from."""
    exchanges, device = data.train_exchanges, accelerator.device
    hardware = f"{torch.get_num_threads()} cores" if torch.get_num_threads() > 1 else "1 core"
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    if accelerator.num_processes > 1:
        hardware = f"{accelerator.num_processes} processes with {hardware} each"
    return Facts(
        exchanges=exchanges.num_per_epoch,
        tokens=exchanges.tokens_per_epoch,
        validation_exchanges=len(data.eval_exchanges),
        has_metrics=has_metrics(),
        on_gpu=device.type == "cuda",
        hardware=hardware,
    )


def announce(run: "Run", facts: Facts, num_parameters: int, pace: Pace | None) -> None:
    """Say what is about to run, how long it takes, and why it may not teach."""
    steps_left = run.num_steps - run.progress.step
    minutes = None if pace is None else pace.minutes(steps_left, run.eval_steps)
    print(overview(run.settings, facts, num_parameters, run.num_steps, minutes), file=sys.stderr)
    for problem in shortcomings(run.settings, facts, num_parameters, run.num_steps, minutes):
        print(f"warning: {problem}", file=sys.stderr)


def show_verdict(run: "Run", folder: RunFolder) -> None:
    """Say, last of all, what is wrong with the published model, in the doctor's words."""
    log = RunLog.of(folder.path)
    if log is None:
        return
    learnt, step = run.data.train_exchanges, run.progress.best_step
    answers = Counter(learnt.replies)
    num_replies = min(len(run.data.eval_exchanges), run.settings.run.max_eval_replies)
    if num_replies < FEW_QUESTIONS and run.accelerator.num_processes == 1:
        # Too few to judge by: then by questions that it has learnt.
        alone = EncodedExchanges(learnt.rows.select(range(learnt.num_per_epoch)))
        known = different_questions(alone, QUESTIONS_OF_A_VERDICT)
        evaluation, replies = evaluate(run.published, run.data.tokenizer, known, max_replies=len(known))
        figures = {**evaluation_figures(evaluation), "samples": sample_replies(known, replies, turn=0)}
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


class Run:
    """A model, what trains it, and how far it has come."""

    def __init__(
        self,
        settings: TrainingSettings,
        accelerator: Accelerator,
        data: PreparedData,
        on_published: OnPublished | None = None,
    ):
        self.settings, self.accelerator, self.data, self.on_published = settings, accelerator, data, on_published
        plan = settings.optimization
        self.plans = EpochPlans(data.train_exchanges, plan)
        self.num_steps = plan.max_steps or max(
            1, math.ceil(decided(plan.num_train_epochs) * self.plans.steps_per_epoch)
        )
        self.eval_steps = decided(settings.run.eval_steps)
        self.save_steps = settings.run.save_steps or self.eval_steps

        model = new_model(settings.model, data.tokenizer, max_new_tokens=settings.tokenizer.max_target_tokens)
        ready_to_train(model, accelerator.device, compiled=plan.torch_compile)
        # What is evaluated and published: a plain model, however the trained one is wrapped, averaged or sharded.
        self.published = copy.deepcopy(model).to(accelerator.device).eval()
        if plan.torch_compile:
            for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
                layer.compile(dynamic=True)
        optimizer = make_optimizer(model, plan)
        self.scheduler = make_scheduler(
            plan.lr_scheduler_type,
            optimizer,
            d_model=model.config.d_model,
            warmup_steps=decided(plan.warmup_steps),
            num_steps=self.num_steps,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        noise = {name: getattr(settings.data, name) for name in ("token_dropout", "word_swap", "bpe_dropout")}
        self.noise = SourceNoise(data.tokenizer, **noise, seed=plan.seed) if any(noise.values()) else None
        self.progress = Progress(micro_batches=plan.gradient_accumulation_steps)
        # The schedule counts optimizer steps; accelerate's own wrapper would count one for each process.
        accelerator.register_for_checkpointing(self.scheduler, self.progress)
        plain_model = accelerator.unwrap_model(self.model)
        self.moving_average = MovingAverage(plain_model, plan.ema_decay) if plan.ema_decay else None
        self.checkpoint_average = CheckpointAverage(plan.average_checkpoints) if plan.average_checkpoints else None
        for average in (self.moving_average, self.checkpoint_average):
            if average is not None:
                accelerator.register_for_checkpointing(average)
        self.stop = StopRequest()
        self.unread: list[tuple[torch.Tensor, torch.Tensor]] = []

    def overview(self) -> dict[str, Any]:
        """Return the figures of what is about to run."""
        train_exchanges, eval_exchanges = self.data.train_exchanges, self.data.eval_exchanges
        return {
            "parameters": sum(parameter.numel() for parameter in self.published.parameters()),
            "vocabulary": len(self.data.tokenizer),
            "training_exchanges": train_exchanges.num_per_epoch,
            "validation_exchanges": len(eval_exchanges),
            "exchanges_left_out_as_too_long": train_exchanges.num_too_long + eval_exchanges.num_too_long,
            "target_tokens_per_epoch": int(train_exchanges.target_lengths[: train_exchanges.num_per_epoch].sum()),
            "steps_per_epoch": self.plans.steps_per_epoch,
            "steps": self.num_steps,
            "padding": round(padding_share(train_exchanges, self.plans.steps(0), self.num_parts()), 4),
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "mixed_precision": chosen_precision(self.settings.optimization.mixed_precision),
        }

    def num_parts(self) -> int:
        """Return how many parts a step is split into, over all processes and micro-batches."""
        return self.accelerator.num_processes * self.progress.micro_batches

    def try_out(self, tries: int = 5) -> dict[str, Any]:
        """Take a few real steps, to estimate the run's time and memory."""
        import resource

        self.model.train()
        seconds = []
        for _ in range(tries):
            self.clock = time.perf_counter()
            self.take_step()
            self.read_losses()
            seconds.append(time.perf_counter() - self.clock)
        if self.accelerator.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated()
        else:
            # Kibibytes on Linux, bytes on macOS.
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {
            "estimated_minutes_without_evaluation": round(self.num_steps * sorted(seconds)[tries // 2] / 60, 1),
            "estimated_memory_gib": round(memory / 2**30, 2),
        }

    def go(self, folder: RunFolder) -> bool:
        """Train to the end, or until a stop is asked for; return whether the end was reached."""
        progress, run = self.progress, self.settings.run
        self.model.train()
        bar = tqdm(
            total=self.num_steps,
            initial=progress.step,
            desc="training",
            unit="step",
            disable=not self.accelerator.is_main_process,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )
        self.clock = time.perf_counter()
        with bar, self.stop:
            while not self.stop.agreed(self.accelerator):
                # First of all, as a run that was stopped in the middle of an evaluation begins with it.
                if self.is_evaluation_due():
                    self.evaluate(folder, bar)
                elif self.is_finished():
                    break
                else:
                    self.take_step()
                    bar.update()
                    if progress.step % run.logging_steps == 0 or progress.step == self.num_steps:
                        self.log(folder, bar)
                if progress.step % self.save_steps == 0 and not (self.is_evaluation_due() or self.is_finished()):
                    self.save(folder)
                    if progress.evaluated_step:
                        self.share(folder, "every_save")
            self.save(folder)
        return self.is_finished() and not self.is_evaluation_due()

    def is_finished(self) -> bool:
        patience = self.settings.run.early_stopping_patience
        return self.progress.step == self.num_steps or (
            patience is not None and self.progress.evaluations_since_best >= patience
        )

    def is_evaluation_due(self) -> bool:
        step = self.progress.step
        is_its_turn = step % self.eval_steps == 0 or step == self.num_steps
        return is_its_turn and self.progress.evaluated_step < step

    def take_step(self) -> None:
        """Take one optimizer step."""
        indices = self.plans.step(self.progress.step)
        # Everyone knows the whole step, so nobody needs to ask how many tokens the others have.
        num_tokens = int(self.data.train_exchanges.target_lengths[indices].sum())
        loss = self.accumulate_gradients(indices, num_tokens)
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.settings.optimization.max_grad_norm or math.inf
        )
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.moving_average is not None:
            self.moving_average.update(self.accelerator.unwrap_model(self.model))
        self.progress.step += 1
        if self.checkpoint_average is not None and self.progress.step % self.save_steps == 0:
            self.checkpoint_average.add(self.accelerator.unwrap_model(self.model))
        self.progress.target_tokens += num_tokens
        # Read later: reading at once would have a GPU wait for the next step's work.
        self.unread.append((loss, norm))

    def accumulate_gradients(self, indices: Any, num_tokens: int) -> torch.Tensor:
        """Leave the gradients of a step; return this process's share of the loss. Halves what memory cannot hold."""
        while True:
            try:
                return self.try_to_accumulate_gradients(indices, num_tokens)
            except (RuntimeError, MemoryError) as error:
                if self.settings.optimization.torch_compile and isinstance(
                    error, torch._dynamo.exc.TorchDynamoException
                ):
                    reason = str(error).split("\n\n")[0]
                    raise TrainingFailed(
                        f"--torch-compile: the layers cannot be compiled here. {reason}\n"
                        "torch needs a C++ compiler for that, and Triton on a GPU. Install them, or train without the "
                        "flag."
                    ) from error
                if not is_out_of_memory(error):
                    raise
                self.halve_micro_batches(len(indices))

    def try_to_accumulate_gradients(self, indices: Any, num_tokens: int) -> torch.Tensor:
        accelerator, plan = self.accelerator, self.settings.optimization
        mine = split_step(indices, self.num_parts())[accelerator.process_index :: accelerator.num_processes]
        total = torch.zeros((), device=accelerator.device)
        for number, part in enumerate(mine, start=1):
            is_last = number == len(mine)
            # What DeepSpeed goes by: it takes the step with the last backward.
            accelerator.sync_gradients = is_last
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.model):
                loss = training_loss(
                    self.model,
                    self.batch(part),
                    num_items_in_batch=num_tokens,
                    label_smoothing=plan.label_smoothing_factor,
                    rdrop_alpha=plan.rdrop_alpha,
                )
                # Gradients are averaged over the processes, but each process has only its share of the sum.
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
        return total

    def batch(self, indices: Any) -> dict[str, torch.Tensor]:
        """Return some exchanges as tensors on the device, with the noise of the present epoch."""
        exchanges, epoch = self.data.train_exchanges, self.progress.step // self.plans.steps_per_epoch
        noise = None if self.noise is None else functools.partial(self.noise, epoch=epoch)
        batch = collate(exchanges, indices, self.data.tokenizer.pad_token_id, noise)
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def halve_micro_batches(self, num_exchanges: int) -> None:
        """Split steps into twice as many parts, or raise a `TrainingFailed` where that is no way out."""
        step, parts = self.progress.step + 1, self.progress.micro_batches
        if self.accelerator.num_processes > 1:
            # The others are waiting for this process's gradients, and cannot be told.
            raise TrainingFailed(
                f"Out of memory at step {step}. Take --gradient-accumulation-steps {2 * parts}: the step keeps its "
                "tokens, and the result is the same."
            )
        if parts >= num_exchanges:
            raise TrainingFailed(
                f"Out of memory at step {step}, even with one exchange at a time. Lower --max-source-tokens and "
                "--max-target-tokens, or take a smaller --size."
            )
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.progress.micro_batches = 2 * parts
        print(f"\nOut of memory at step {step}: going on with {2 * parts} micro-batches a step.", file=sys.stderr)

    def read_losses(self) -> float:
        """
        Wait for the steps taken so far, and add their losses to the progress; return the last gradient's norm.

        Raises a `TrainingFailed` when a loss shows that the training has gone astray.
        """
        if not self.unread:
            return math.nan
        losses = self.accelerator.reduce(torch.stack([loss for loss, _ in self.unread]), reduction="sum").tolist()
        norm = float(self.unread[-1][1])
        self.unread.clear()
        first_step = self.progress.step - len(losses)
        wrong = what_is_wrong(losses, self.progress.lowest_loss, len(self.data.tokenizer))
        if wrong is not None:
            number, reason = wrong
            raise TrainingFailed(
                f"{reason} at step {first_step + number + 1}, whose exchanges are, among others:\n"
                f"{self.shown_exchanges(first_step + number)}\n"
                "Try a lower --learning-rate, more --warmup-steps or --mixed-precision no. The checkpoints before "
                "are kept."
            )
        self.progress.losses += losses
        return norm

    def shown_exchanges(self, step: int, count: int = 3) -> str:
        exchanges = self.data.train_exchanges
        lines = []
        for index in self.plans.step(step)[:count]:
            row = exchanges.rows[int(index)]
            lines.append(f"    {index}: {shortened(row['history'][-1]['content'])} → {shortened(row['reply'])}")
        return "\n".join(lines)

    def pass_time(self, *, training: bool) -> None:
        """Count the seconds since the last call."""
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.progress.training_seconds += (now - self.clock) if training else 0.0
        self.clock = now

    def log(self, folder: RunFolder, bar: Any) -> None:
        """Write a line about the steps since the last one."""
        progress = self.progress
        norm = self.read_losses()
        self.pass_time(training=True)
        mean = sum(progress.losses) / len(progress.losses)
        progress.lowest_loss = min(progress.lowest_loss, mean)
        progress.losses = []
        rate = self.scheduler.get_last_lr()[0]
        bar.set_postfix(loss=f"{mean:.3f}", rate=f"{rate:.1e}")
        if self.accelerator.is_main_process:
            folder.log(
                {
                    "step": progress.step,
                    "epoch": round(progress.step / self.plans.steps_per_epoch, 3),
                    "loss": mean,
                    "grad_norm": norm,
                    "learning_rate": rate,
                    "tokens_per_second": round(progress.target_tokens / progress.training_seconds),
                    "seconds": round(progress.seconds, 1),
                }
            )

    def evaluate(self, folder: RunFolder, bar: Any) -> None:
        """Evaluate, log, and publish the model if it is the best so far."""
        self.read_losses()
        self.pass_time(training=True)
        if self.moving_average is not None:
            self.moving_average.copy_to(self.published)
        elif self.checkpoint_average is not None and self.checkpoint_average.checkpoints:
            self.checkpoint_average.copy_to(self.published)
        else:
            copy_weights(self.accelerator.unwrap_model(self.model), self.published)
        if len(self.data.eval_exchanges):
            # Where others take part, stopping at once would have them wait for ever.
            stopping = self.stop.at_once() if self.accelerator.num_processes == 1 else contextlib.nullcontext()
            try:
                with stopping:
                    evaluation, replies = evaluate(
                        self.published,
                        self.data.tokenizer,
                        self.data.eval_exchanges,
                        max_replies=self.settings.run.max_eval_replies,
                    )
            except Interrupted:
                return
            self.judge(evaluation, replies, folder, bar)
        elif self.accelerator.is_main_process:
            folder.publish(self.published, self.data.tokenizer)
        self.progress.evaluated_step = self.progress.step
        self.pass_time(training=False)

    def judge(self, evaluation: Evaluation, replies: Sequence[str], folder: RunFolder, bar: Any) -> None:
        """Publish the evaluated model if it is the best so far, and log what was found."""
        progress, metric = self.progress, self.settings.run.metric_for_best_model
        figures = evaluation_figures(evaluation)
        figure = progress.step if metric == "last" else figures[f"eval_{metric}"]
        figure *= -1 if metric in LOWER_IS_BETTER else 1
        is_best = progress.best_figure is None or figure > progress.best_figure
        progress.evaluations_since_best = 0 if is_best else progress.evaluations_since_best + 1
        if is_best:
            progress.best_figure, progress.best_step, progress.best_evaluation = figure, progress.step, figures
        if not self.accelerator.is_main_process:
            return
        if is_best:
            folder.publish(self.published, self.data.tokenizer)
        exchanges = self.data.eval_exchanges
        samples = sample_replies(exchanges, replies, turn=progress.step // self.eval_steps)
        folder.log({"step": progress.step, "seconds": round(progress.seconds, 1), **figures, "samples": samples})
        bar.write(evaluation_line(progress.step, evaluation, is_best and metric != "last"), file=sys.stderr)
        for sample in samples:
            bar.write(f"    {shortened(sample['source'])} → {shortened(sample['reply'])}", file=sys.stderr)
        if is_best:
            self.share(folder, "best")

    def share(self, folder: RunFolder, strategy: str) -> None:
        """Share the folder as it is now, where that is the strategy; at the end of the run it is shared anyway."""
        if self.on_published is None or self.settings.run.hub_strategy != strategy or self.is_finished():
            return
        if self.accelerator.is_main_process:
            # The run goes on as if nothing had been shared, to the last bit.
            with torch.random.fork_rng():
                self.on_published(folder.path)
        self.pass_time(training=False)

    def save(self, folder: RunFolder) -> None:
        """Save a checkpoint, unless the losses show that it would not be worth resuming."""
        self.read_losses()
        self.pass_time(training=True)
        folder.save_checkpoint(self.accelerator, self.progress.step, limit=self.settings.run.save_total_limit)
        self.pass_time(training=False)


def evaluation_figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures by the names they have in the log."""
    figures = dataclasses.asdict(evaluation) | {"score": evaluation.score}
    return {f"eval_{name}": value for name, value in figures.items() if value is not None}


def evaluation_line(step: int, evaluation: Evaluation, is_best: bool) -> str:
    parts = [f"step {step}: loss {evaluation.loss:.3f}", f"{evaluation.bits_per_character:.3f} bits per character"]
    parts.append(f"{evaluation.source_gain:.3f} of them saved by listening")
    if evaluation.history_gain is not None:
        parts.append(f"{evaluation.history_gain:.3f} by remembering")
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
