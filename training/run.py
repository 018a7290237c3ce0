"""The training loop: steps, evaluations and checkpoints, until the end or a request to stop."""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from chatformer.configuration.training import LOWER_IS_BETTER, METRICS_WITHOUT_REPLIES, TrainingSettings, decided
from chatformer.data.batches import padding_share
from chatformer.data.preparation import PreparedData
from chatformer.data.prose import is_prose
from chatformer.evaluation.figures import Evaluation, evaluate
from chatformer.evaluation.prose import without_references
from chatformer.evaluation.shortening import shortened
from chatformer.storage.bars import Bar, progress_bar

from .averaging import Averages
from .building import (
    EpochPlans,
    avoid_padding,
    chosen_precision,
    compile_layers,
    end_dropout,
    make_optimizer,
    new_model,
    pictures_stand_alone,
    ready_to_train,
)
from .gradients import Gradients, is_out_of_memory
from .output import RunFolder
from .progress import Progress
from .reporting import evaluation_figures, evaluation_line, sample_replies
from .resuming import check_steps_left, go_on
from .schedules import make_scheduler
from .stopping import Interrupted, StopRequest, TrainingFailed, divergence
from .tracking import report

OnPublished = Callable[[Path], None]
"""Shares an output folder in its present state; called on the main process."""


class Run:
    """A model, its optimizer and schedule, and their progress."""

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
        model.config.pictures_stand_alone = pictures_stand_alone(data.tokenizer, data.train_exchanges)
        ready_to_train(model, accelerator.device, compiled=plan.torch_compile)
        # The model to evaluate and publish: plain, while the model in training may be wrapped, averaged or sharded.
        self.published = copy.deepcopy(model).to(accelerator.device).eval()
        avoid_padding(model, accelerator)
        if plan.torch_compile:
            compile_layers(model)
        optimizer = make_optimizer(model, plan)
        # As the settings have them: a checkpoint brings its own.
        self.hyperparameters = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        self.scheduler = make_scheduler(
            plan.lr_scheduler_type,
            optimizer,
            d_model=model.config.d_model,
            warmup_steps=decided(plan.warmup_steps),
            num_steps=self.num_steps,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # Found once: for a small model, each search through its modules takes as long as a product.
        self.unwrapped = accelerator.unwrap_model(self.model)
        self.parameters = list(self.model.parameters())
        self.steps_with_dropout = plan.share_with_dropout * self.num_steps
        self.drops_out = True
        micro_batches = plan.gradient_accumulation_steps
        self.progress = Progress(micro_batches=micro_batches, micro_batches_set=micro_batches)
        self.gradients = Gradients(self.model, accelerator, settings, data, self.progress)
        self.averages = Averages(self.unwrapped, plan)
        # The schedule counts optimizer steps; accelerate's own wrapper would count one for each process.
        accelerator.register_for_checkpointing(self.scheduler, self.progress, *self.averages.states())
        self.stop = StopRequest()
        self.clock = time.perf_counter()
        self.unread: list[tuple[torch.Tensor, torch.Tensor]] = []

    def go_on(self, begun_with: TrainingSettings) -> None:
        """Give effect to the settings where the checkpoint that was loaded, of a run so far, has others."""
        check_steps_left(self.settings, self.progress.step, self.num_steps)
        go_on(self.settings, begun_with, self.progress, self.scheduler, self.hyperparameters)

    def figures(self) -> dict[str, Any]:
        """The figures of the run, for its record."""
        train_exchanges, eval_exchanges = self.data.train_exchanges, self.data.eval_exchanges
        num_parts = self.gradients.num_parts()
        return {
            "parameters": sum(parameter.numel() for parameter in self.published.parameters()),
            "vocabulary": len(self.data.tokenizer),
            "training_exchanges": train_exchanges.num_alone,
            "validation_exchanges": len(eval_exchanges),
            "exchanges_left_out_as_too_long": train_exchanges.num_too_long + eval_exchanges.num_too_long,
            "target_tokens_per_epoch": train_exchanges.target_tokens_per_epoch,
            "steps_per_epoch": self.plans.steps_per_epoch,
            "steps": self.num_steps,
            "padding": round(padding_share(train_exchanges, self.plans.steps(0), num_parts), 4),
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "mixed_precision": chosen_precision(self.settings.optimization.mixed_precision),
        }

    def take_step(self) -> None:
        """Take one optimizer step."""
        if self.drops_out and self.progress.step >= self.steps_with_dropout:
            end_dropout(self.unwrapped)
            self.gradients.forget_graphs()
            self.drops_out = False
        indices = self.plans.step(self.progress.step)
        # Every rank knows all exchanges of the step: counting their tokens needs no communication.
        num_tokens = int(self.data.train_exchanges.target_lengths[indices].sum())
        loss = self.gradients.accumulate(indices, num_tokens, self.progress.step // self.plans.steps_per_epoch)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.optimization.max_grad_norm or math.inf)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        # The last step's weights are a checkpoint, too, wherever it falls.
        self.averages.add(self.unwrapped, saves=self.progress.step % self.save_steps == 0 or self.is_finished())
        self.progress.target_tokens += num_tokens
        # Read later: reading at once would have a GPU wait for the next step's work.
        self.unread.append((loss, norm))

    def read_losses(self) -> float:
        """
        Wait for the steps taken so far, and add their losses to the progress; return the last gradient's norm.

        Raises a `TrainingFailed` if the training has diverged.
        """
        if not self.unread:
            return math.nan
        losses = self.accelerator.reduce(torch.stack([loss for loss, _ in self.unread]), reduction="sum").tolist()
        norm = float(self.unread[-1][1])
        self.unread.clear()
        first_step = self.progress.step - len(losses)
        problem = divergence(losses, self.progress.lowest_loss, len(self.data.tokenizer))
        if problem is not None:
            number, reason = problem
            raise TrainingFailed(
                f"{reason} at step {first_step + number + 1}, whose exchanges include:\n"
                f"{self.some_exchanges(first_step + number)}\n"
                "Try a lower --learning-rate, more --warmup-steps or --mixed-precision no. The checkpoints before that "
                "step are kept."
            )
        self.progress.losses += losses
        return norm

    def some_exchanges(self, step: int, count: int = 3) -> str:
        """The first exchanges of a step, a line each."""
        rows = self.data.train_exchanges.rows
        lines = []
        for index in self.plans.step(step)[:count]:
            row = rows[int(index)]
            lines.append(f"    {index}: {shortened(row['history'][-1]['content'])} → {shortened(row['reply'])}")
        return "\n".join(lines)

    def take_step_at_once(self) -> None:
        """Take one step, and wait for it."""
        self.model.train()
        self.take_step()
        self.read_losses()

    def rehearse(self) -> None:
        """Take the next step until it is recorded, if it is to be, and stay before it."""
        for _ in range(0 if self.gradients.graphs is None else 2):
            self.take_step_at_once()
            self.progress.step -= 1

    def pass_time(self, *, training: bool) -> None:
        """Count the seconds since the last call."""
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.progress.training_seconds += (now - self.clock) if training else 0.0
        self.clock = now

    def log(self, folder: RunFolder, bar: Bar) -> None:
        """Log the steps since the last line."""
        progress = self.progress
        norm = self.read_losses()
        self.pass_time(training=True)
        mean = sum(progress.losses) / len(progress.losses)
        progress.lowest_loss = min(progress.lowest_loss, mean)
        progress.losses = []
        rate = self.scheduler.get_last_lr()[0]
        bar.show(loss=f"{mean:.3f}", rate=f"{rate:.1e}")
        if self.accelerator.is_main_process:
            self.write_line(
                folder,
                {
                    "step": progress.step,
                    "epoch": round(progress.step / self.plans.steps_per_epoch, 3),
                    "loss": mean,
                    "grad_norm": norm,
                    "learning_rate": rate,
                    "tokens_per_second": round(progress.target_tokens / progress.training_seconds),
                    "seconds": round(progress.seconds, 1),
                },
            )

    def write_line(self, folder: RunFolder, line: dict[str, Any]) -> None:
        """Add a line to the log, and report it to the trackers."""
        folder.log(line)
        report(self.accelerator, line)

    def evaluate(self, folder: RunFolder, bar: Bar) -> None:
        """Evaluate the model, and publish it if it is the best so far."""
        self.read_losses()
        self.pass_time(training=True)
        self.averages.copy_to(self.published, self.unwrapped)
        if len(self.data.eval_exchanges):
            # With several ranks, one that stopped at once would leave the others waiting for ever.
            stopping = self.stop.at_once() if self.accelerator.num_processes == 1 else contextlib.nullcontext()
            try:
                with stopping:
                    evaluation, replies = self.evaluated()
            except Interrupted:
                return
            if is_prose(self.data.training) and self.settings.run.metric_for_best_model in METRICS_WITHOUT_REPLIES:
                evaluation = without_references(evaluation)
            self.judge(evaluation, replies, folder, bar)
        elif self.accelerator.is_main_process:
            folder.publish(self.published, self.data.tokenizer)
        self.progress.evaluated_step = self.progress.step
        self.pass_time(training=False)

    def evaluated(self) -> tuple[Evaluation, list[str]]:
        """The figures of the published model, and its replies."""

        def attempt() -> tuple[Evaluation, list[str]]:
            data, run = self.data, self.settings.run
            options: dict[str, Any] = {"max_replies": run.max_eval_replies, "bleu_tokenize": run.bleu_tokenize}
            return evaluate(self.published, data.tokenizer, data.eval_exchanges, **options)

        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if self.gradients.graphs is None or not is_out_of_memory(error):
                raise
        # They keep the memory of a step for themselves.
        self.gradients.forget_graphs()
        torch.cuda.empty_cache()
        return attempt()

    def judge(self, evaluation: Evaluation, replies: Sequence[str], folder: RunFolder, bar: Bar) -> None:
        """Log an evaluation, and publish the model if it is the best so far."""
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
        line = {"step": progress.step, "seconds": round(progress.seconds, 1), **figures, "samples": samples}
        self.write_line(folder, line)
        bar.write(evaluation_line(progress.step, evaluation, is_best and metric != "last"))
        for sample in samples:
            bar.write(f"    {shortened(sample['source'])} → {shortened(sample['reply'])}")
        if is_best:
            self.share(folder, "best")

    def share(self, folder: RunFolder, strategy: str) -> None:
        """Share the folder if the settings have this strategy, except at the end, when every run is shared."""
        if self.on_published is None or self.settings.run.hub_strategy != strategy or self.is_finished():
            return
        if self.accelerator.is_main_process:
            # Sharing must not change the run by a single bit.
            with torch.random.fork_rng():
                self.on_published(folder.path)
        self.pass_time(training=False)

    def save(self, folder: RunFolder) -> None:
        """Save a checkpoint, unless the losses show that it would not be worth resuming."""
        self.read_losses()
        self.pass_time(training=True)
        folder.save_checkpoint(self.accelerator, self.progress.step, limit=self.settings.run.save_total_limit)
        self.pass_time(training=False)

    def is_evaluation_due(self) -> bool:
        """True if the present step must be evaluated and is not yet."""
        step = self.progress.step
        is_its_turn = step % self.eval_steps == 0 or step == self.num_steps
        return is_its_turn and self.progress.evaluated_step < step

    def is_finished(self) -> bool:
        """True after the last step, or if patience has run out."""
        patience = self.settings.run.early_stopping_patience
        return self.progress.step == self.num_steps or (
            patience is not None and self.progress.evaluations_since_best >= patience
        )

    def go(self, folder: RunFolder) -> bool:
        """Train to the end, or until a request to stop; return whether the end was reached."""
        progress, run = self.progress, self.settings.run
        self.model.train()
        is_main = self.accelerator.is_main_process
        bar = progress_bar(total=self.num_steps, done=progress.step, description="training", unit="step", shown=is_main)
        self.clock = time.perf_counter()
        with bar, self.stop:
            while not self.stop.agreed(self.accelerator):
                # Evaluation first: a run that was stopped during an evaluation repeats it.
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
