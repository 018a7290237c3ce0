"""
Training, compared with peers: useful target tokens per second, on the same text, in one run.

    python benchmarks/train.py --data ChatbotData.csv
    python benchmarks/train.py --data train.en train.de --size base --mixed-precision bf16 --markdown

The contestants train in turn, for a few seconds each:

    chatformer                          the steps of `chatformer train`, at its own --tokens-per-step
    chatformer-large                    the same, with as many tokens a step as 64 random exchanges have on average
    chatformer-compiled                 the same as the first, with --torch-compile
    marian-sdpa, marian-eager           transformers' MarianMTModel in a bare loop
    marian-sdpa-float32                 the same without mixed precision
    bart-sdpa, bart-eager               transformers' BartForConditionalGeneration in a bare loop
    seq2seq-trainer                     the same Marian under transformers' Seq2SeqTrainer, without its start-up
    seq2seq-trainer-float32             the same without mixed precision, which is the trainer's default
    torch-tied, torch-untied            torch.nn.Transformer in a bare loop, with one matrix of embeddings or three

All have the same exchanges, sizes, label smoothing, dropout, precision and optimizer (AdamW with the same betas, the
gradient's norm clipped at the same bound); Marian also has the same first weights. Bare loops take the loss and the
tensors of a batch from chatformer. Otherwise the trainer has its defaults, with 64 exchanges a batch.

Padding does not count as work, nor does work that is done twice: a contestant's share of the machine's rate is its
useful operations per second (the formula in benchmarks/machine.py, three times the forward pass), divided by those of
`torch.mm` in the same precision and round, on matrices of the model's sizes. What a step keeps a token is what its
forward pass leaves in memory for its backward pass, without the weights, for each target token. All contestants are in
memory at once; --contestants leaves some out. The process keeps the defaults of torch and glibc for memory, not those
of `chatformer train`, so that they favour no contestant.
"""

import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from machine import (
    DTYPES,
    ComparisonSettings,
    MatrixRate,
    check_comparison,
    decoder_flops,
    decoder_products,
    encoder_flops,
    encoder_products,
    matrix_rate,
    print_matrix_rates,
    print_table,
    ratios,
    rounds,
    run,
    spread,
    synchronize,
    write_figures,
)
from peers import TorchTransformer, new_bart
from text import TextSettings, training_settings
from tqdm.auto import tqdm
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.training import OptimizationSettings, TrainingSettings, check_settings
from chatformer.data.batches import collate
from chatformer.data.exchanges import EncodedExchanges
from chatformer.data.preparation import PreparedData, prepare_data
from chatformer.fast_loss import fused_loss
from chatformer.hub.formats.marian_format import to_marian
from chatformer.seq2seq import shift_right
from chatformer.training.building import EpochPlans, chosen_precision, make_optimizer, new_model
from chatformer.training.distributed import make_accelerator
from chatformer.training.run import Run

Name = Literal[
    "chatformer",
    "chatformer-large",
    "chatformer-compiled",
    "marian-sdpa",
    "marian-sdpa-float32",
    "marian-eager",
    "bart-sdpa",
    "bart-eager",
    "seq2seq-trainer",
    "seq2seq-trainer-float32",
    "torch-tied",
    "torch-untied",
]
Batching = Literal["random", "buckets"]

LEARNING_RATE = 1e-4
"""Small, so that no contestant's loss runs away: what is measured is the time alone."""


@dataclass(frozen=True, kw_only=True)
class Settings(ComparisonSettings, TextSettings):
    """Measure how many target tokens per second chatformer and its peers train on, side by side."""

    contestants: tuple[Name, ...] = tuple(name for name in get_args(Name) if name != "chatformer-compiled")
    """The contestants; the others are compared with the first one. Compiling takes a minute, and gains nothing on
    CPUs."""
    batching: tuple[Batching, ...] = ("random",)
    """Batches of the peers in a bare loop: "random" are --peer-batch-size exchanges, "buckets" the very steps of
    `chatformer train`, of like lengths. With both, each of these peers takes part twice: what differs between the two
    is the batching's, what differs on buckets the model's."""
    same_batches: bool = False
    """Give chatformer the batches of the peers, instead of its own: what differs then is the model's alone."""
    peer_batch_size: int = 64
    """Exchanges in a random batch."""
    tokens_per_step: int | None = None
    """Source and target tokens of a step of chatformer; the default of `chatformer train` unless given."""
    mixed_precision: Literal["no", "bf16", "auto"] = "no"
    """Precision of all contestants: float32, bf16 by autocast, or what `chatformer train` takes by itself."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A contestant's work in the seconds that were measured: their number, and the lengths of its exchanges."""

    seconds: float
    source_lengths: np.ndarray
    target_lengths: np.ndarray

    def tokens_per_second(self) -> float:
        return int(self.target_lengths.sum()) / self.seconds

    def flops_per_second(self, config: Any) -> float:
        forward = encoder_flops(config, self.source_lengths) + decoder_flops(
            config, self.source_lengths, self.target_lengths
        )
        # The backward pass takes two products for each of the forward pass.
        return 3 * forward / self.seconds


class Contestant(Protocol):
    model: torch.nn.Module

    def kept_per_token(self) -> float | None:
        """Bytes that a step's forward pass keeps for its backward pass, for each target token; None if unknown."""
        ...

    def train(self, *, warmup_seconds: float, seconds: float) -> Turn:
        """Train for a turn."""
        ...


class StepByStep:
    """A contestant whose steps are taken here; `take_step` returns the indices of the exchanges of a step."""

    def __init__(
        self,
        model: torch.nn.Module,
        exchanges: EncodedExchanges,
        take_step: Callable[[], np.ndarray],
        *,
        is_compiled: bool = False,
    ):
        self.model, self.exchanges, self.take_step, self.is_compiled = model, exchanges, take_step, is_compiled

    def train(self, *, warmup_seconds: float, seconds: float) -> Turn:
        self.take_steps(warmup_seconds)
        began = time.perf_counter()
        indices = self.take_steps(seconds)
        return Turn(
            seconds=time.perf_counter() - began,
            source_lengths=self.exchanges.source_lengths[indices],
            target_lengths=self.exchanges.target_lengths[indices],
        )

    def kept_per_token(self) -> float | None:
        if self.is_compiled:
            # The hooks below would be compiled, too.
            self.take_step()
            return None
        parameters = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                # Several views of it are kept once, and until the backward pass, so that no other has its address.
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            indices = self.take_step()
        return sum(kept.values()) / int(self.exchanges.target_lengths[indices].sum())

    def take_steps(self, seconds: float) -> np.ndarray:
        end = time.perf_counter() + seconds
        taken = [self.take_step()]
        while time.perf_counter() < end:
            taken.append(self.take_step())
        synchronize()
        return np.concatenate(taken)


class GivenSteps:
    """Steps as a run takes them from its plans of epochs, from other batches."""

    steps_per_epoch = 1

    def __init__(self, batches: Iterator[np.ndarray]):
        self.batches, self.number = batches, -1

    def step(self, number: int) -> np.ndarray:
        """The batch of the run's step `number`; numbers only grow."""
        if number != self.number:
            self.number, self.indices = number, next(self.batches)
        return self.indices


def chatformer_step(run: Run) -> np.ndarray:
    """Take the next step of a run as `Run.go` does, and read the losses as often."""
    indices = run.plans.step(run.progress.step)
    run.take_step()
    if run.progress.step % run.settings.run.logging_steps == 0:
        run.read_losses()
    return indices


def bare_step(
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[np.ndarray],
    exchanges: EncodedExchanges,
    config: Any,
    plan: OptimizationSettings,
    device: torch.device,
    bf16: bool,
) -> np.ndarray:
    """Take a step of a plain training loop."""
    indices = next(batches)
    batch = collate(exchanges, indices, config.pad_token_id)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = batch.pop("labels")
    decoder_input_ids = shift_right(labels, config.decoder_start_token_id, config.pad_token_id)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = model(**batch, decoder_input_ids=decoder_input_ids).logits
    fused_loss(logits, labels, label_smoothing=plan.label_smoothing_factor).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return indices


def random_batches(num_exchanges: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield batches without end; each pass over the data drops its incomplete last batch."""
    for epoch in itertools.count():
        order = np.random.default_rng((seed, epoch)).permutation(num_exchanges)
        for first in range(0, max(1, num_exchanges - batch_size + 1), batch_size):
            yield order[first : first + batch_size]


def bucket_batches(exchanges: EncodedExchanges, settings: TrainingSettings) -> Iterator[np.ndarray]:
    """Yield the steps of `chatformer train` without end."""
    plans = EpochPlans(exchanges, settings.optimization)
    return (plans.step(number) for number in itertools.count())


class CountingTrainer(Seq2SeqTrainer):
    """The stock trainer, which also records the lengths of its batches' sequences."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.lengths: list[tuple[torch.Tensor, torch.Tensor]] = []

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        self.lengths.append((inputs["attention_mask"].sum(1), (inputs["labels"] != -100).sum(1)))
        return super().training_step(model, inputs, *arguments, **options)


class Stopwatch(TrainerCallback):
    """Stops a trainer after some seconds, and measures them without start-up and warm-up."""

    def __init__(self, trainer: CountingTrainer):
        self.trainer = trainer
        trainer.add_callback(self)

    def start(self, warmup_seconds: float, seconds: float) -> None:
        self.left = [warmup_seconds, seconds]

    def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        if time.perf_counter() - self.began < self.left[0]:
            return
        synchronize()
        now = time.perf_counter()
        self.left.pop(0)
        if self.left:
            self.began = now
            self.trainer.lengths.clear()
        else:
            self.seconds = now - self.began
            control.should_training_stop = True


class UnderTrainer:
    """The stock trainer; each turn is a training of its own, on other exchanges."""

    def __init__(self, model: Any, data: PreparedData, settings: TrainingSettings, batch_size: int, *, bf16: bool):
        self.model = model
        plan = settings.optimization
        self.folder = tempfile.TemporaryDirectory()
        self.trainer = CountingTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(
                output_dir=self.folder.name,
                per_device_train_batch_size=batch_size,
                learning_rate=plan.learning_rate,
                adam_beta1=plan.adam_beta1,
                adam_beta2=plan.adam_beta2,
                adam_epsilon=plan.adam_epsilon,
                max_grad_norm=plan.max_grad_norm,
                label_smoothing_factor=plan.label_smoothing_factor,
                bf16=bf16,
                use_cpu=not torch.accelerator.is_available(),
                # More than there is time for: the stopwatch ends a turn.
                max_steps=10**9,
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
            ),
            train_dataset=data.train_exchanges.rows.select_columns(["input_ids", "labels"]),
            data_collator=DataCollatorForSeq2Seq(data.tokenizer, model=model),
        )
        self.trainer.remove_callback(PrinterCallback)
        self.stopwatch = Stopwatch(self.trainer)
        self.turn = 0

    def kept_per_token(self) -> None:
        """Not known: a trainer takes no single step. It is that of its model in a bare loop."""

    def train(self, *, warmup_seconds: float, seconds: float) -> Turn:
        # The trainer's sampler draws its order from it.
        self.turn += 1
        torch.manual_seed(self.turn)
        self.stopwatch.start(warmup_seconds, seconds)
        self.trainer.train()
        sources, targets = zip(*self.trainer.lengths, strict=True)
        self.trainer.lengths.clear()
        return Turn(
            seconds=self.stopwatch.seconds,
            source_lengths=torch.cat(sources).cpu().numpy(),
            target_lengths=torch.cat(targets).cpu().numpy(),
        )


def peer_model(name: Name, ours: Any) -> torch.nn.Module:
    """A peer of our model's sizes; Marian also has its weights."""
    kind, _, variant = name.partition("-")
    if kind == "torch":
        return TorchTransformer(ours.config, tied=variant == "tied")
    if kind == "bart":
        model: Any = new_bart(ours.config, variant)
    else:
        model = to_marian(ours)
        if kind == "marian":
            model.set_attn_implementation(variant.removesuffix("-float32"))
    return model.train()


def make_contestants(
    settings: Settings, plain: TrainingSettings, data: PreparedData, accelerator: Accelerator
) -> dict[str, Contestant]:
    """The contestants by their names in the table."""
    exchanges, plan = data.train_exchanges, plain.optimization
    mean_tokens = (int(exchanges.source_lengths.sum()) + int(exchanges.target_lengths.sum())) / len(exchanges)
    large = plain.changed({"tokens_per_step": round(settings.peer_batch_size * mean_tokens)}, where="benchmark")
    compiled = plain.changed({"torch_compile": True}, where="benchmark")
    # The peers are made from it, even if it is not a contestant.
    ours = Run(plain, accelerator, data)

    def batches_of(batching: Batching) -> Iterator[np.ndarray]:
        if batching == "random":
            return random_batches(len(exchanges), settings.peer_batch_size, settings.seed)
        return bucket_batches(exchanges, plain)

    contestants: dict[str, Contestant] = {}
    for name in settings.contestants:
        bf16 = plan.mixed_precision == "bf16" and not name.endswith("float32")
        if name.startswith("chatformer"):
            for batching in settings.batching if settings.same_batches else [None]:
                chosen = {"chatformer-large": large, "chatformer-compiled": compiled}.get(name, plain)
                run = Run(chosen, accelerator, data)
                if batching is not None:
                    run.plans = GivenSteps(batches_of(batching))
                run.model.train()
                label = name if batching in (None, "random") else f"{name}, {batching}"
                contestants[label] = StepByStep(
                    run.model,
                    exchanges,
                    functools.partial(chatformer_step, run),
                    is_compiled=chosen.optimization.torch_compile,
                )
        elif name.startswith("seq2seq-trainer"):
            model = peer_model(name, ours.published)
            contestants[name] = UnderTrainer(model, data, plain, settings.peer_batch_size, bf16=bf16)
        else:
            for batching in settings.batching:
                model = peer_model(name, ours.published).to(accelerator.device)
                step = functools.partial(
                    bare_step,
                    model=model,
                    optimizer=make_optimizer(model, plan),
                    batches=batches_of(batching),
                    exchanges=exchanges,
                    config=ours.published.config,
                    plan=plan,
                    device=accelerator.device,
                    bf16=bf16,
                )
                label = name if batching == "random" else f"{name}, {batching}"
                contestants[label] = StepByStep(model, exchanges, step)
    return contestants


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def compare(settings: Settings) -> None:
    """Have all contestants train in turn, then print the tables and write all figures."""
    check_comparison(settings)
    if settings.peer_batch_size < 1:
        raise SettingsError(f"--peer-batch-size must be at least 1, but it is {settings.peer_batch_size}.")
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    plain = training_settings(settings)
    changes = {"learning_rate": LEARNING_RATE, "mixed_precision": chosen_precision(settings.mixed_precision)}
    if settings.tokens_per_step is not None:
        changes["tokens_per_step"] = settings.tokens_per_step
    plain = plain.changed(changes, where="benchmark")
    check_settings(plain)
    plan = plain.optimization
    set_seed(settings.seed)
    accelerator = make_accelerator(plan.mixed_precision, max_grad_norm=plan.max_grad_norm)
    data = prepare_data(plain)
    contestants = make_contestants(settings, plain, data, accelerator)
    config = new_model(plain.model, data.tokenizer, max_new_tokens=plain.tokenizer.max_target_tokens).config

    precision = "bf16" if plan.mixed_precision == "bf16" else "float32"
    exchanges = data.train_exchanges
    target_share = exchanges.target_lengths.sum() / (exchanges.source_lengths + exchanges.target_lengths).sum()
    num_rows = max(1, round(plan.tokens_per_step * target_share))
    kept = {name: contestant.kept_per_token() for name, contestant in contestants.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    rates: dict[str, list[MatrixRate]] = {name: [] for name in DTYPES}
    bar = tqdm(total=settings.rounds * len(contestants), desc="turns", disable=None)
    for names in rounds(contestants, settings.rounds):
        for name, dtype in DTYPES.items():
            rates[name].append(
                matrix_rate(
                    encoder_products(config) + decoder_products(config),
                    num_rows=num_rows,
                    dtype=dtype,
                    device=accelerator.device,
                    backward=True,
                    seconds=settings.seconds / 5,
                )
            )
        for name in names:
            turns[name].append(
                contestants[name].train(warmup_seconds=settings.warmup_seconds, seconds=settings.seconds)
            )
            bar.update()
    bar.close()

    first, *_ = contestants
    rows, figures = [], {}
    for name, taken in turns.items():
        speeds = [turn.tokens_per_second() for turn in taken]
        slower = ratios([turn.tokens_per_second() for turn in turns[first]], speeds)
        share = ratios([turn.flops_per_second(config) for turn in taken], [rate.overall for rate in rates[precision]])
        parameters = num_parameters(contestants[name].model)
        rows.append(
            [
                name,
                f"{parameters / 1e6:.2f}",
                f"{spread(speeds).median:,.0f}",
                "1" if name == first else f"{slower:.3g}",
                f"{share.median:.0%}",
                "" if (bytes_kept := kept[name]) is None else f"{bytes_kept / 1024:,.0f}",
            ]
        )
        figures[name] = {
            "parameters": parameters,
            "target_tokens_per_second": speeds,
            "times_slower_than_the_first": asdict(slower),
            "share_of_the_matrix_rate": asdict(share),
            "bytes_kept_per_target_token": kept[name],
        }
    title = (
        f"Training, {settings.size}, {precision}, {torch.get_num_threads()} threads, vocabulary {config.vocab_size:,}, "
        f"{plan.tokens_per_step:,} tokens a step, {settings.rounds} rounds"
    )
    columns = [
        "contestant",
        "million parameters",
        "target tokens/s",
        f"times slower than {first}",
        "share of torch.mm",
        "KiB kept a token",
    ]
    print_table(title, columns, rows, markdown=settings.markdown)
    print_matrix_rates(rates, num_rows, markdown=settings.markdown)
    write_figures(
        settings.output_file,
        settings=asdict(settings),
        precision=precision,
        vocabulary=config.vocab_size,
        tokens_per_step=plan.tokens_per_step,
        contestants=figures,
        matrix_rates={name: [rate.overall for rate in measured] for name, measured in rates.items()},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare as a command line says; return the exit status."""
    return run(compare, Settings, arguments, prog="python benchmarks/train.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
