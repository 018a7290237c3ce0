"""How fast this machine trains a model: measured on a few steps, before the run begins."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list

from chatformer.data.batches import collate, split_step
from chatformer.data.preparation import PreparedData

from .building import EpochPlans, make_optimizer, new_model, ready_to_train
from .gradients import training_loss
from .settings import TrainingSettings
from .stopping import is_out_of_memory

if TYPE_CHECKING:
    from accelerate import Accelerator

MEASURED_STEPS = 5
MEASURED_REPLIES = 64


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds of one step and of one evaluation."""

    step: float
    evaluation: float

    def minutes(self, num_steps: int, eval_steps: int) -> float:
        """Minutes that a whole run takes."""
        return (num_steps * self.step + -(-num_steps // eval_steps) * self.evaluation) / 60

    def steps_in(self, minutes: float, num_evaluations: int) -> int:
        """Steps that fit into the minutes beside so many evaluations."""
        return max(1, int((60 * minutes - num_evaluations * self.evaluation) / self.step))


def measured(settings: TrainingSettings, data: PreparedData, accelerator: "Accelerator") -> Pace | None:
    """
    Try the planned settings on steps of the run, with a model that is then forgotten; the same on all processes.

    Neither the run's random numbers nor its weights are touched. None if the steps do not fit into memory or are
    compiled, which takes minutes of its own.
    """
    if settings.optimization.torch_compile:
        return None
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    pace = None
    with torch.random.fork_rng(devices):
        try:
            pace = _measured(settings, data, accelerator)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    shared = [pace]
    broadcast_object_list(shared)
    return shared[0]


def _measured(settings: TrainingSettings, data: PreparedData, accelerator: "Accelerator") -> Pace:
    options, device = settings.optimization, accelerator.device
    model = new_model(settings.model, data.tokenizer, max_new_tokens=settings.tokenizer.max_target_tokens)
    model = ready_to_train(model.to(device), device, compiled=False).train()
    optimizer = make_optimizer(model, options)
    pad = data.tokenizer.pad_token_id

    def step(indices: Any) -> None:
        parts = split_step(indices, accelerator.num_processes * options.gradient_accumulation_steps)
        for part in parts[accelerator.process_index :: accelerator.num_processes]:
            batch = {name: tensor.to(device) for name, tensor in collate(data.train_exchanges, part, pad).items()}
            with accelerator.autocast():
                loss = training_loss(
                    model,
                    batch,
                    num_items_in_batch=int(data.train_exchanges.target_lengths[indices].sum()),
                    label_smoothing=options.label_smoothing_factor,
                    rdrop_alpha=options.rdrop_alpha,
                )
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    steps = EpochPlans(data.train_exchanges, options).steps(0)[:MEASURED_STEPS]
    # Twice each, as the first time at a length prepares kernels and memory for it.
    seconds = [min(_seconds(functools.partial(step, indices), device) for _ in range(2)) for indices in steps]
    return Pace(sum(seconds) / len(seconds), _evaluation_seconds(model, settings, data, device))


def _evaluation_seconds(model: Any, settings: TrainingSettings, data: PreparedData, device: torch.device) -> float:
    """Seconds to score all validation exchanges three times over and to reply as often as an evaluation does."""
    exchanges = data.eval_exchanges
    if not len(exchanges):
        return 0.0
    model.eval()
    indices = list(range(min(MEASURED_REPLIES, len(exchanges))))
    batch = collate(exchanges, indices, data.tokenizer.pad_token_id)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    sources = {name: batch[name] for name in ("input_ids", "attention_mask")}
    # Replies as long as the references: a model without training would never end them.
    length = max(2, round(float(exchanges.target_lengths.mean())))

    @torch.inference_mode()
    def score() -> None:
        model(**batch, return_logits=True)

    @torch.inference_mode()
    def reply() -> None:
        model.generate(**sources, do_sample=False, num_beams=1, min_new_tokens=length, max_new_tokens=length)

    num_replies = min(len(exchanges), settings.run.max_eval_replies)
    scoring = 3 * len(exchanges) / len(indices) * min(_seconds(score, device) for _ in range(2))
    return scoring + num_replies / len(indices) * min(_seconds(reply, device) for _ in range(2))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
