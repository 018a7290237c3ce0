"""The speed of training on this machine, measured on a few steps before the run begins."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list

from chatformer.configuration.training import TrainingSettings
from chatformer.data.preparation import PreparedData

from .averaging import Averages
from .building import EpochPlans, avoid_padding, make_optimizer, new_model, ready_to_train
from .gradients import Gradients, batch_on, is_out_of_memory
from .progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

MEASURED_STEPS = 5
MEASURED_REPLIES = 64
MEASURED_TOKENS = 64
"""Of a reply; the others take as long."""
LARGEST_EVALUATION_SHARE = 1 / 3
"""Of the minutes of a run that is planned for them."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds of one step and of one evaluation."""

    step: float
    evaluation: float

    def minutes(self, num_steps: int, eval_steps: int) -> float:
        """Minutes of a run, with its evaluations."""
        return (num_steps * self.step + -(-num_steps // eval_steps) * self.evaluation) / 60

    def evaluations_in(self, minutes: float, most: int) -> int:
        """So many evaluations that they leave most of the minutes to the steps; at least one."""
        seconds = LARGEST_EVALUATION_SHARE * 60 * minutes
        return most if most * self.evaluation <= seconds else max(1, int(seconds / self.evaluation))

    def steps_in(self, minutes: float, num_evaluations: int) -> int:
        """Steps that fit into the minutes together with the evaluations, or into half of them if those take more."""
        seconds = max(60 * minutes - num_evaluations * self.evaluation, 30 * minutes)
        return max(1, int(seconds / self.step))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - began


def _seconds_when_warm(work: Callable[[], None], device: torch.device, tries: int = 1) -> float:
    """Seconds after some tries, which prepare kernels and memory for the lengths."""
    for _ in range(tries):
        work()
    return _seconds(work, device)


def _evaluation_seconds(model: Any, settings: TrainingSettings, data: PreparedData, device: torch.device) -> float:
    """Seconds to score the validation exchanges three times, and to reply as often as an evaluation does."""
    exchanges = data.eval_exchanges
    if not len(exchanges):
        return 0.0
    model.eval()
    indices = list(range(min(MEASURED_REPLIES, len(exchanges))))
    batch = batch_on(device, exchanges, indices, data.tokenizer.pad_token_id)
    num_replies = min(len(exchanges), settings.run.max_eval_replies)
    num_measured = min(num_replies, len(indices))
    sources = {name: batch[name][:num_measured] for name in ("input_ids", "attention_mask")}
    # As long as the references: an untrained model would never end a reply.
    length = max(2, round(float(exchanges.target_lengths.mean())))
    measured_length = min(length, MEASURED_TOKENS)

    @torch.inference_mode()
    def score() -> None:
        model(**batch, return_logits=True)

    @torch.inference_mode()
    def reply() -> None:
        lengths = {"min_new_tokens": measured_length, "max_new_tokens": measured_length}
        model.generate(**sources, do_sample=False, num_beams=1, **lengths)

    scoring = 3 * len(exchanges) / len(indices) * _seconds_when_warm(score, device)
    if not num_replies:
        return scoring
    share_measured = num_measured / num_replies * measured_length / length
    return scoring + _seconds_when_warm(reply, device) / share_measured


def _pace_of_this_process(settings: TrainingSettings, data: PreparedData, accelerator: "Accelerator") -> Pace:
    options, device = settings.optimization, accelerator.device
    model = new_model(settings.model, data.tokenizer, max_new_tokens=settings.tokenizer.max_target_tokens)
    model = ready_to_train(model.to(device), device, compiled=False).train()
    avoid_padding(model, accelerator)
    optimizer, averages = make_optimizer(model, options), Averages(model, options)
    progress = Progress(micro_batches=options.gradient_accumulation_steps)
    # The model is a plain one, also where the run's will be wrapped.
    gradients = Gradients(model, accelerator, settings, data, progress, backward=torch.Tensor.backward)

    def step(indices: Any) -> None:
        gradients.try_to_accumulate(indices, int(data.train_exchanges.target_lengths[indices].sum()), epoch=0)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averages.add(model, saves=False)

    steps = EpochPlans(data.train_exchanges, options).steps(0)[:MEASURED_STEPS]
    # A graph is recorded the second time.
    tries = 1 if gradients.graphs is None else 2
    seconds = [_seconds_when_warm(functools.partial(step, indices), device, tries) for indices in steps]
    return Pace(sum(seconds) / len(seconds), _evaluation_seconds(model, settings, data, device))


def measure_pace(settings: TrainingSettings, data: PreparedData, accelerator: "Accelerator") -> Pace | None:
    """
    Try planned settings on steps of the run, with a model of their own; return the same pace on every rank.

    The run's random numbers and weights stay as they are. None if the steps do not fit into memory, or are compiled,
    which takes minutes.
    """
    if settings.optimization.torch_compile:
        return None
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    pace = None
    with torch.random.fork_rng(devices):
        try:
            pace = _pace_of_this_process(settings, data, accelerator)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    if devices:
        # The run begins with all of it.
        torch.cuda.empty_cache()
    return broadcast_object_list([pace])[0]


def try_out(
    rehearse: Callable[[], None], run_step: Callable[[], None], num_steps: int, device: torch.device, *, tries: int = 5
) -> dict[str, Any]:
    """Take a few steps of a run, each of them rehearsed, to estimate its time and memory."""
    seconds = []
    for _ in range(tries):
        rehearse()
        seconds.append(_seconds(run_step, device))
    seconds.sort()
    memory = peak_memory(device)
    return {
        "estimated_minutes_without_evaluation": round(num_steps * seconds[tries // 2] / 60, 1),
        "estimated_memory_gib": None if memory is None else round(memory / 2**30, 2),
    }


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has had on the device so far; None where the system does not say it."""
    if device.type == "cuda":
        # Also what graphs keep for themselves.
        return torch.cuda.max_memory_reserved()
    try:
        import resource
    # Windows has no such module.
    except ImportError:
        return None
    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
