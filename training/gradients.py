"""The gradients of a step, computed in micro-batches, and in more of them if memory runs out."""

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from chatformer.configuration.training import TrainingSettings
from chatformer.data.batches import collate, split_step
from chatformer.data.exchanges import EncodedExchanges
from chatformer.data.noise import SourceNoise
from chatformer.data.preparation import PreparedData
from chatformer.fast_gpu_training import PackedBatch, begin_packing, end_packing, is_packable
from chatformer.fast_loss import overwrite_with_gradient

from .graphs import Graphs
from .progress import Progress
from .stopping import TrainingFailed

if TYPE_CHECKING:
    from accelerate import Accelerator


def training_loss(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    *,
    num_items_in_batch: int | torch.Tensor,
    label_smoothing: float,
    rdrop_alpha: float,
    overwrite: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """
    The loss of a batch, summed over its target tokens and divided by `num_items_in_batch`.

    `rdrop_alpha` adds R-Drop (Liang et al., 2021, arXiv:2106.14448), Equation 4: two passes over each exchange, each
    with its own dropout, and a penalty for predictions that differ. The loss is half the paper's, to have the size of
    the plain loss: the mean of both passes, and alpha/2 times the symmetric divergence. R-Drop takes twice the memory
    and time.
    """
    options: dict[str, Any] = {"num_items_in_batch": num_items_in_batch, "label_smoothing": label_smoothing}
    if overwrite is not None:
        options["overwrite"] = overwrite
    if rdrop_alpha:
        # Distributed training counts one forward for each backward, and one large product is faster than two.
        batch = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
        options = {**options, "num_items_in_batch": 2 * num_items_in_batch, "rdrop_alpha": rdrop_alpha}
    return model(**batch, **options, return_logits=False).loss


def on_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch on a device."""
    if device.type == "cuda":
        # From memory that the system leaves in its place, a copy need not be waited for.
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def batch_on(
    device: torch.device, exchanges: EncodedExchanges, indices: Any, pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Some exchanges as tensors on a device."""
    return on_device(collate(exchanges, indices, pad_token_id), device)


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error says that no memory is left, on a GPU or for the CPU."""
    # A GPU's driver and Triton have errors of their own; one that follows may hide the first.
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or any(words in str(error) for words in ("can't allocate memory", "out of memory"))
        or (error.__context__ is not None and is_out_of_memory(error.__context__))
    )


def source_noise(settings: TrainingSettings, data: PreparedData) -> SourceNoise | None:
    """The noise that the settings ask for; None if they ask for none."""
    rates = {name: getattr(settings.data, name) for name in ("token_dropout", "word_swap", "bpe_dropout")}
    return SourceNoise(data.tokenizer, **rates, seed=settings.optimization.seed) if any(rates.values()) else None


class Gradients:
    """Accumulates the gradients of a run's steps on its model, as `Accelerator.prepare` returned it."""

    def __init__(
        self,
        model: torch.nn.Module,
        accelerator: "Accelerator",
        settings: TrainingSettings,
        data: PreparedData,
        progress: Progress,
        backward: Callable[[torch.Tensor], None] | None = None,
    ):
        self.model, self.accelerator, self.data, self.progress = model, accelerator, data, progress
        self.backward = backward or accelerator.backward
        self.plan = settings.optimization
        self.noise = source_noise(settings, data)
        self.overwrite = None
        # On CPUs it gains nothing.
        if self.plan.torch_compile and accelerator.device.type == "cuda":
            self.overwrite = torch.compile(overwrite_with_gradient, dynamic=True)
        unwrapped = accelerator.unwrap_model(model)
        # A plain model, by which the pace of a run is measured, synchronizes nothing.
        self.is_wrapped = model is not unwrapped or hasattr(model, "set_requires_gradient_sync")
        self._graphs: Graphs | None = None
        if (
            accelerator.num_processes == 1
            and accelerator.mixed_precision == "bf16"
            and not self.plan.rdrop_alpha
            and is_packable(unwrapped)
        ):
            self._graphs = Graphs(unwrapped, data.tokenizer.pad_token_id)

    @property
    def graphs(self) -> Graphs | None:
        """The CUDA graphs that compute the gradients, if they do."""
        return None if self.progress.without_graphs else self._graphs

    def num_parts(self) -> int:
        """The number of parts that a step is split into, over all processes and micro-batches."""
        return self.accelerator.num_processes * self.progress.micro_batches

    def accumulate(self, indices: Any, num_tokens: int, epoch: int) -> torch.Tensor:
        """
        Add up the gradients of a step of `num_tokens` target tokens; return this process's share of the loss.

        Twice as many micro-batches are used from now on if memory runs out.
        """
        while True:
            try:
                return self.try_to_accumulate(indices, num_tokens, epoch)
            except (RuntimeError, MemoryError) as error:
                if self.plan.torch_compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
                    reason = str(error).split("\n\n")[0]
                    raise TrainingFailed(
                        f"--torch-compile: the layers cannot be compiled here. {reason}\n"
                        "torch needs a C++ compiler for that, and Triton on a GPU. Install them, or train without the "
                        "flag."
                    ) from error
                if not is_out_of_memory(error):
                    raise
                self._halve_micro_batches(len(indices))

    def try_to_accumulate(self, indices: Any, num_tokens: int, epoch: int) -> torch.Tensor:
        """`accumulate`, but an error if memory runs out even without graphs."""
        if self.graphs is not None:
            try:
                return self._accumulate_once(indices, num_tokens, epoch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # They keep the memory of a step for themselves. A run that is resumed goes on without them, too.
            self.progress.without_graphs, self._graphs = True, None
            self._drop_gradients()
            print(f"\nOut of memory at step {self.progress.step + 1}: going on without CUDA graphs.", file=sys.stderr)
        return self._accumulate_once(indices, num_tokens, epoch)

    def forget_graphs(self) -> None:
        """Give back the memory of the graphs, and record them anew from now on."""
        if self.graphs is not None:
            self.graphs.forget()

    def _accumulate_once(self, indices: Any, num_tokens: int, epoch: int) -> torch.Tensor:
        accelerator, exchanges = self.accelerator, self.data.train_exchanges
        noise = None if self.noise is None else functools.partial(self.noise, epoch=epoch)
        parts = split_step(indices, self.num_parts())[accelerator.process_index :: accelerator.num_processes]
        total = torch.zeros((), device=accelerator.device)
        for number, part in enumerate(parts, start=1):
            is_last = number == len(parts)
            # DeepSpeed takes its step with the backward pass for which this is set.
            accelerator.sync_gradients = is_last
            with contextlib.nullcontext() if is_last or not self.is_wrapped else accelerator.no_sync(self.model):
                batch = collate(exchanges, part, self.data.tokenizer.pad_token_id, noise)
                if self.graphs is not None:
                    total += self.graphs.add(batch, num_tokens, self._add_packed_gradients, is_whole=len(parts) == 1)
                else:
                    total += self._add_gradients(on_device(batch, accelerator.device), num_tokens)
        return total

    def _add_gradients(self, batch: Mapping[str, torch.Tensor], num_tokens: int | torch.Tensor) -> torch.Tensor:
        """The loss of a batch, divided by the tokens of its step; its gradients are added."""
        # For a model that accelerate has not prepared.
        with self.accelerator.autocast():
            loss = training_loss(
                self.model,
                batch,
                num_items_in_batch=num_tokens,
                label_smoothing=self.plan.label_smoothing_factor,
                rdrop_alpha=self.plan.rdrop_alpha,
                overwrite=self.overwrite,
            )
        # Gradients are averaged over the processes, but each process has only its share of the sum.
        self.backward(loss * self.accelerator.num_processes)
        return loss.detach()

    def _add_packed_gradients(self, batch: PackedBatch, num_tokens: torch.Tensor) -> torch.Tensor:
        """The same for a batch that is packed already."""
        unwrapped = self.accelerator.unwrap_model(self.model)
        begin_packing(unwrapped, batch)
        try:
            return self._add_gradients(batch.inputs(), num_tokens)
        finally:
            end_packing(unwrapped)

    def _halve_micro_batches(self, num_exchanges: int) -> None:
        """Split steps into twice as many parts, or raise a `TrainingFailed` if that cannot help."""
        step, parts = self.progress.step + 1, self.progress.micro_batches
        if self.accelerator.num_processes > 1:
            # The other ranks are waiting for the gradients of this one, and no message can reach them.
            raise TrainingFailed(
                f"Out of memory at step {step}. Take --gradient-accumulation-steps {2 * parts}: the step keeps its "
                "tokens, and the result is the same."
            )
        if parts >= num_exchanges:
            raise TrainingFailed(
                f"Out of memory at step {step}, even with one exchange at a time. Lower --max-source-tokens and "
                "--max-target-tokens, or take a smaller --size."
            )
        self._drop_gradients()
        self.progress.micro_batches = 2 * parts
        print(f"\nOut of memory at step {step}: going on with {2 * parts} micro-batches a step.", file=sys.stderr)

    def _drop_gradients(self) -> None:
        """Free the memory of a step that was not finished."""
        # Not by accelerate's optimizer, which keeps gradients between the micro-batches of a step.
        self.model.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
