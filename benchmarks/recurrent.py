"""
Training a recurrent model, compared with other arrangements of the same network, in one run.

    python benchmarks/recurrent.py --data ChatbotData.csv
    python benchmarks/recurrent.py --data train.en train.de --tokens-per-step 8000 --mixed-precision bf16 --markdown

The contestants train in turn, for a few seconds each:

    chatformer      the steps of `chatformer train --architecture bahdanau`: products with the source and with the
                    embeddings are computed for all steps at once
    input-feeding   a decoder that takes every step with modules, as recurrent toolkits do: a GRU of one token reads the
                    last token and the last attention vector, and its state asks the source; keys and the output layer
                    are computed of all steps at once (Luong et al., 2015; Kreutzer et al., 2019)
    seq2seq         ours without attention
    torch-gru       encoder and decoder are `torch.nn.GRU`, which read all tokens in one call: no attention, no packing

All have the same exchanges in the same batches, widths, dropout, precision, loss and optimizer, and the same fast
dropout and products; only the networks differ, and two of them have no attention.
"""

import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from accelerate.utils import set_seed
from machine import ComparisonSettings, check_comparison, print_table, ratios, rounds, run, spread, write_figures
from text import TextSettings, training_settings
from torch import Tensor, nn
from train import StepByStep, bucket_batches, num_parameters
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from chatformer.configuration.training import TrainingSettings
from chatformer.data.batches import collate
from chatformer.data.exchanges import EncodedExchanges
from chatformer.data.preparation import PreparedData, prepare_data
from chatformer.training.building import chosen_precision, make_optimizer, new_model, ready_to_train
from chatformer.training.gradients import training_loss

Name = Literal["chatformer", "input-feeding", "seq2seq", "torch-gru"]


@dataclass(frozen=True, kw_only=True)
class Settings(ComparisonSettings, TextSettings):
    """Measure how many target tokens per second recurrent models train on, side by side."""

    contestants: tuple[Name, ...] = get_args(Name)
    """The contestants; the others are compared with the first one."""
    tokens_per_step: int = 2000
    """Source and target tokens of a step."""
    mixed_precision: Literal["no", "bf16", "auto"] = "auto"
    """Precision of all contestants; "auto" is what `chatformer train` takes by itself."""


class TorchEncoder(nn.Module):
    """Both directions by `torch.nn.GRU`; padding is read like tokens."""

    def __init__(self, ours: Any):
        super().__init__()
        self.embedding, self.dropout, self.gru = ours.embedding, ours.dropout, ours.gru

    def forward(self, input_ids: Tensor, *_: Any, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.dropout(self.gru(self.dropout(self.embedding(input_ids)))[0]))


class TorchDecoder(nn.Module):
    """`torch.nn.GRU` over all target tokens."""

    def __init__(self, ours: Any):
        super().__init__()
        self.embedding, self.dropout, self.start, self.output = ours.embedding, ours.dropout, ours.start, ours.output
        self.gru = nn.GRU(ours.config.d_embedding, ours.config.d_model, batch_first=True)

    def forward(self, input_ids: Tensor, _: Any, __: Any, memory_BSD2: Tensor, *___: Any, **____: Any) -> Any:
        state_BD = torch.tanh(self.start(ends_of(memory_BSD2)))
        states_BTD, _ = self.gru(self.dropout(self.embedding(input_ids)), state_BD.unsqueeze(0).float())
        return decoded(self.dropout(torch.tanh(self.output(states_BTD))))


class InputFeedingDecoder(nn.Module):
    """A GRU of one token in a loop, whose input has the attention vector of the step before."""

    def __init__(self, ours: Any):
        super().__init__()
        config = ours.config
        self.embedding, self.dropout, self.start = ours.embedding, ours.dropout, ours.start
        self.query, self.key, self.score = ours.query, ours.key, ours.score
        self.gru = nn.GRU(2 * config.d_embedding, config.d_model, batch_first=True)
        self.output = ours.output

    def forward(
        self, input_ids: Tensor, _: Any, __: Any, memory_BSD2: Tensor, source_mask: Tensor, *___: Any, **____: Any
    ) -> Any:
        keys_BSA, is_padding_B1S = self.key(memory_BSD2), (source_mask == 0).unsqueeze(1)
        x_BTM = self.dropout(self.embedding(input_ids))
        state_1BD = torch.tanh(self.start(ends_of(memory_BSD2))).unsqueeze(0).float()
        vector_B1M = torch.zeros_like(x_BTM[:, :1])
        vectors = []
        for step in range(x_BTM.shape[1]):
            output_B1D, state_1BD = self.gru(torch.cat([x_BTM[:, step : step + 1], vector_B1M], -1), state_1BD)
            energies_BSA = torch.tanh(self.query(output_B1D) + keys_BSA)
            scores_B1S = self.score(energies_BSA).transpose(1, 2)
            weights_B1S = scores_B1S.masked_fill(is_padding_B1S, float("-inf")).softmax(-1)
            context_B1D2 = weights_B1S.to(memory_BSD2.dtype) @ memory_BSD2
            vector_B1M = torch.tanh(self.output(self.dropout(torch.cat([output_B1D, context_B1D2], -1))))
            vectors.append(vector_B1M)
        return decoded(torch.cat(vectors, 1))


def ends_of(memory_BSD2: Tensor) -> Tensor:
    """The last state of each direction."""
    D = memory_BSD2.shape[-1] // 2
    return torch.cat([memory_BSD2[:, -1, :D], memory_BSD2[:, 0, D:]], -1)


def decoded(hidden_BTM: Tensor) -> BaseModelOutputWithPastAndCrossAttentions:
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_BTM)


def model_of(name: Name, plain: TrainingSettings, data: PreparedData) -> Any:
    """A contestant's model, ready to train."""
    attends = name not in ("seq2seq", "torch-gru")
    settings = plain.changed({"architecture": "bahdanau" if attends else "seq2seq"}, where="benchmark")
    model: Any = new_model(settings.model, data.tokenizer, max_new_tokens=plain.tokenizer.max_target_tokens)
    ready_to_train(model, torch.device("cpu"), compiled=False)
    encoder, decoder = model.model.encoder, model.model.decoder
    if name == "input-feeding":
        model.model.decoder = InputFeedingDecoder(decoder)
    elif name == "torch-gru":
        model.model.encoder, model.model.decoder = TorchEncoder(encoder), TorchDecoder(decoder)
    return model.train()


def take_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[np.ndarray],
    exchanges: EncodedExchanges,
    settings: TrainingSettings,
) -> np.ndarray:
    """Take a step of training; return the indices of its exchanges."""
    plan, indices = settings.optimization, next(batches)
    batch = collate(exchanges, indices, model.config.pad_token_id)
    with torch.autocast("cpu", torch.bfloat16, enabled=plan.mixed_precision == "bf16"):
        loss = training_loss(
            model,
            batch,
            num_items_in_batch=int(exchanges.target_lengths[indices].sum()),
            label_smoothing=plan.label_smoothing_factor,
            rdrop_alpha=0,
        )
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return indices


def compare(settings: Settings) -> None:
    """Have all contestants train in turn, then print the table and write all figures."""
    check_comparison(settings)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    precision = chosen_precision(settings.mixed_precision)
    changes = {"mixed_precision": precision, "tokens_per_step": settings.tokens_per_step, "architecture": "bahdanau"}
    plain = training_settings(settings).changed({**changes, "learning_rate": 1e-4}, where="benchmark")
    set_seed(settings.seed)
    data = prepare_data(plain)
    exchanges = data.train_exchanges
    contestants = {}
    for name in settings.contestants:
        model = model_of(name, plain, data)
        optimizer, batches = make_optimizer(model, plain.optimization), bucket_batches(exchanges, plain)
        step = functools.partial(take_step, model, optimizer, batches, exchanges, plain)
        contestants[name] = StepByStep(model, exchanges, step)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for name in itertools.chain.from_iterable(rounds(contestants, settings.rounds)):
        turn = contestants[name].train(warmup_seconds=settings.warmup_seconds, seconds=settings.seconds)
        speeds[name].append(turn.tokens_per_second())

    first, *_ = contestants
    rows, figures = [], {}
    for name, measured in speeds.items():
        slower, parameters = ratios(speeds[first], measured), num_parameters(contestants[name].model)
        times = "1" if name == first else f"{slower:.3g}"
        rows.append([name, f"{parameters / 1e6:.2f}", f"{spread(measured).median:,.0f}", times])
        figures[name] = {
            "parameters": parameters,
            "target_tokens_per_second": measured,
            "times_slower_than_the_first": asdict(slower),
        }
    title = (
        f"Training, {settings.size}, {'bf16' if precision == 'bf16' else 'float32'}, {torch.get_num_threads()} "
        f"threads, vocabulary {len(data.tokenizer):,}, {settings.tokens_per_step:,} tokens a step, "
        f"{settings.rounds} rounds"
    )
    columns = ["contestant", "million parameters", "target tokens/s", f"times slower than {first}"]
    print_table(title, columns, rows, markdown=settings.markdown)
    write_figures(settings.output_file, settings=asdict(settings), precision=precision, contestants=figures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare as a command line says; return the exit status."""
    return run(compare, Settings, arguments, prog="python benchmarks/recurrent.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
