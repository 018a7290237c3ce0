"""
Batches without padding, for training on GPUs in bfloat16 or float16. Except for rounding, they compute the same.

The real tokens of all sequences go through the layers in one row, and attention knows where each sequence begins. Short
ones take the kernel of short_attention.py, others torch's flash attention for sequences of different lengths. Letters
after a tensor's name are its axes: B batch, T tokens with padding, D d_model, H heads, C channels of one head, Q and K
queries and keys of all sequences.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from operator import sub
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .decoder import DecoderLayer
from .embedding import positions_of
from .encoder import EncoderLayer
from .fast_packing import tokens_of
from .layer_stack import LayerStack
from .loss import IGNORED
from .modeling_chatformer import ChatformerForConditionalGeneration
from .seq2seq import shift_right

try:
    from torch.nn.attention import varlen

    from .fused_add_norm import add_norm
    from .fused_linear import PackedLinear
    from .short_attention import LONGEST, short_attention
# Before torch 2.10, and where Triton is not installed.
except ImportError:
    CAN_PACK = False
else:
    CAN_PACK = True
    long_attention: Any = varlen.varlen_attn
    CAUSAL = (
        {"window_size": (-1, 0)}
        if "window_size" in inspect.signature(long_attention).parameters
        # In torch 2.10.
        else {"is_causal": True}
    )

CHANNELS = (16, 32, 64, 128)
"""Channels of a head that both kernels take."""

PACKED = "packed_sdpa"
"""The attention of a model that packs: of packed sequences while a batch is packed, and otherwise torch's."""

ONLY_LOSS = {"num_items_in_batch", "return_logits", "label_smoothing", "rdrop_alpha", "overwrite"}
"""Options of a forward pass that is packed, beside the batch."""

_is_packing = ContextVar("_is_packing", default=False)


class Starts(NamedTuple):
    """Where packed sequences begin and the last one ends, (B + 1,), and a bound of their lengths."""

    starts: Tensor
    longest: int


class PackedSequences(NamedTuple):
    """What an attention takes instead of a mask: the sequences of its queries and of its keys."""

    queries: Starts
    keys: Starts


def packed_attention(
    module: nn.Module, query_BHQC: Tensor, key_BHKC: Tensor, value_BHKC: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """The function behind `PACKED`: returns (B, Q, H, C), and no weights."""
    if not isinstance(mask, PackedSequences):
        return sdpa_attention_forward(module, query_BHQC, key_BHKC, value_BHKC, mask, **options)
    # Not x[0], whose gradient would be copied.
    query_QHC, key_KHC, value_KHC = (x.transpose(1, 2).squeeze(0) for x in (query_BHQC, key_BHKC, value_BHKC))
    queries, keys = mask
    longest = queries.longest, keys.longest
    sequences = query_QHC, key_KHC, value_KHC, queries.starts, keys.starts
    if max(longest) <= LONGEST:
        attended_QHC = short_attention(*sequences, options["scaling"], bool(module.is_causal))
    else:
        attended_QHC = long_attention(*sequences, *longest, **CAUSAL if module.is_causal else {})
    return attended_QHC[None], None


def no_mask_of_packed(*arguments: Any, **options: Any) -> Tensor | None:
    """The mask of `PACKED`: torch's, but none, and no waiting for the GPU to make it, while a batch is packed."""
    return None if _is_packing.get() else sdpa_mask(*arguments, **options)


class PackedTokens(NamedTuple):
    """The N tokens of sequences, one behind the other."""

    ids_N: Tensor
    positions_N: Tensor
    """Of each token in its sequence."""
    starts: Tensor
    """Where the sequences begin, and the last one ends, (B + 1,)."""

    @classmethod
    def of(cls, ids_BT: Tensor, place_N: Tensor, is_token_BT: Tensor) -> "PackedTokens":
        starts = nn.functional.pad(is_token_BT.sum(1).cumsum(0), (1, 0))
        return cls(ids_BT.flatten()[place_N], positions_of(is_token_BT).flatten()[place_N], starts)

    def filled_up(self, num_rows: int, num_more: int, num_sequences: int, pad_token_id: int) -> "PackedTokens":
        """The same with padding up to `num_rows`, in `num_more` sequences, and with empty ones behind those."""
        missing = num_rows - len(self.ids_N)
        ends = len(self.ids_N) + torch.arange(1, num_more + 1) * missing // max(1, num_more)
        starts = torch.cat([self.starts, ends])
        return PackedTokens(
            nn.functional.pad(self.ids_N, (0, missing), value=pad_token_id),
            nn.functional.pad(self.positions_N, (0, missing)),
            nn.functional.pad(starts, (0, num_sequences + 1 - len(starts)), value=num_rows),
        )


class PackedBatch(NamedTuple):
    """A batch without padding."""

    sources: PackedTokens
    targets: PackedTokens
    """What the decoder reads."""
    labels_N: Tensor
    longest: tuple[int, int]
    """Bounds of the lengths of sources and of targets."""

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], config: Any) -> "PackedBatch":
        """Pack input_ids, attention_mask and labels. On a GPU, this waits for the number of tokens."""
        input_ids_BS, labels_BT = batch["input_ids"], batch["labels"]
        decoder_input_ids_BT = shift_right(labels_BT, config.decoder_start_token_id, config.pad_token_id)
        is_source_BS, is_target_BT = batch["attention_mask"] != 0, tokens_of(labels_BT)
        for is_token_BT in (is_source_BS, is_target_BT):
            # An attention needs a key in each sequence.
            is_token_BT[:, 0] |= ~is_token_BT.any(1)
        source_N, target_N = (is_token_BT.flatten().nonzero()[:, 0] for is_token_BT in (is_source_BS, is_target_BT))
        return cls(
            PackedTokens.of(input_ids_BS, source_N, is_source_BS),
            PackedTokens.of(decoder_input_ids_BT, target_N, is_target_BT),
            labels_BT.flatten()[target_N],
            (input_ids_BS.shape[1], labels_BT.shape[1]),
        )

    def filled_up(self, pad_token_id: int) -> "PackedBatch":
        """The same with a little padding behind the last sequence, so that batches have few shapes."""
        lengths = [len(self.sources.ids_N), len(self.targets.ids_N)]
        rows = [rounded_up(length) for length in lengths]
        # Padding, too, is sequences: as many of sources as of targets, none empty and none longer than a tile.
        while (num_more := -(-max(map(sub, rows, lengths)) // LONGEST)) > min(map(sub, rows, lengths)):
            rows = [rounded_up(row + (row - length < num_more)) for row, length in zip(rows, lengths, strict=True)]
        # Empty sequences cost next to nothing.
        num_sequences = max(64, 1 << (len(self.sources.starts) + num_more - 2).bit_length())
        return PackedBatch(
            self.sources.filled_up(rows[0], num_more, num_sequences, pad_token_id),
            self.targets.filled_up(rows[1], num_more, num_sequences, pad_token_id),
            nn.functional.pad(self.labels_N, (0, rows[1] - lengths[1]), value=IGNORED),
            (-(-self.longest[0] // LONGEST) * LONGEST, -(-self.longest[1] // LONGEST) * LONGEST),
        )

    def tensors(self) -> list[Tensor]:
        """All of its tensors."""
        return [*self.sources, *self.targets, self.labels_N]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "PackedBatch":
        """The same with other tensors."""
        return PackedBatch(PackedTokens(*tensors[:3]), PackedTokens(*tensors[3:6]), tensors[6], self.longest)

    def inputs(self) -> dict[str, Tensor]:
        """What a model takes while it packs."""
        names = {"input_ids": self.sources.ids_N, "decoder_input_ids": self.targets.ids_N, "labels": self.labels_N}
        return {name: tensor[None] for name, tensor in names.items()}


def rounded_up(num_rows: int) -> int:
    """Some more rows, at most 512 or a sixteenth."""
    multiple = max(512, (1 << num_rows.bit_length()) // 32)
    return -(-num_rows // multiple) * multiple


class PackedEncoderLayer(EncoderLayer):
    """The same, with add & norm in one piece."""

    def forward(self, x: Tensor, mask: Any, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.attention(x, x, mask, output_attentions=output_attentions)
        x = add_norm(x, attended, self.dropout, self.attention_norm)
        x = add_norm(x, self.feed_forward(x), self.dropout, self.feed_forward_norm)
        return x, weights


class PackedDecoderLayer(DecoderLayer):
    """The same, with add & norm in one piece."""

    def forward(
        self,
        x: Tensor,
        mask: Any,
        memory: Tensor,
        memory_mask: Any,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        attended, self_weights = self.self_attention(x, x, mask, past_key_values, output_attentions)
        x = add_norm(x, attended, self.dropout, self.self_attention_norm)
        attended, cross_weights = self.cross_attention(x, memory, memory_mask, past_key_values, output_attentions)
        x = add_norm(x, attended, self.dropout, self.cross_attention_norm)
        x = add_norm(x, self.feed_forward(x), self.dropout, self.feed_forward_norm)
        return x, self_weights, cross_weights


class PackedRows(LayerStack):
    """A stack of layers that takes `packed`, if that is set, for its masks: its own, and that of the memory."""

    evaluates_as = LayerStack
    packed: Sequence[PackedSequences] | None = None

    def forward(self, x_BTD: Tensor, masks: Sequence[Any], *inputs: Any, **options: Any) -> Any:
        if self.packed is not None:
            masks = [self.packed[0]]
            if inputs:
                inputs = (inputs[0], self.packed[1])
        return super().forward(x_BTD, masks, *inputs, **options)


def packed_positions(positions: Any, _: Any) -> Any:
    """A hook before positions are looked up: those of packed tokens, if they are set."""
    return getattr(positions, "packed", None)


def begin_packing(model: Any, batch: PackedBatch) -> None:
    """Let a model that can pack take `batch.inputs()` for what they are, until `end_packing`."""
    sources = Starts(batch.sources.starts.int(), batch.longest[0])
    targets = Starts(batch.targets.starts.int(), batch.longest[1])
    encoder, decoder = model.model.encoder, model.model.decoder
    encoder.layers.packed = [PackedSequences(sources, sources)]
    decoder.layers.packed = [PackedSequences(targets, targets), PackedSequences(targets, sources)]
    encoder.positions.packed = batch.sources.positions_N[None], sources.longest
    decoder.positions.packed = batch.targets.positions_N[None], targets.longest
    _is_packing.set(True)


def end_packing(model: Any, *_: Any) -> None:
    """Let a model take batches as they are again; also a hook after its forward."""
    _is_packing.set(False)
    for part in (model.model.encoder, model.model.decoder):
        part.layers.packed = part.positions.packed = None


def pack(model: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A hook before a model's forward: where only the loss of sources and their labels is wanted, pack them."""
    given = {name for name, value in options.items() if value is not None}
    names = ("input_ids", "attention_mask", "labels")
    if (
        _is_packing.get()
        or arguments
        or not given.issuperset(names)
        or not given <= {*names, *ONLY_LOSS}
        or options.get("return_logits") is not False
    ):
        return None
    batch = PackedBatch.of({name: options.pop(name) for name in names}, model.config)
    begin_packing(model, batch)
    return (), {**options, **batch.inputs()}


def pack_batches(model: nn.Module) -> bool:
    """
    Let a model pack batches of which only the loss is wanted; return False if it cannot, or this torch.

    It must be called in bfloat16 or float16, or under autocast.
    """
    if (
        not CAN_PACK
        or not isinstance(model, ChatformerForConditionalGeneration)
        or model.config.self_attention != "full"
        or model.config.attention_dropout
        or model.config.d_model // model.config.num_heads not in CHANNELS
    ):
        return False
    ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, no_mask_of_packed)
    model.set_attn_implementation(PACKED)
    for part, kind in ((model.model.encoder, PackedEncoderLayer), (model.model.decoder, PackedDecoderLayer)):
        for layer in part.layers:
            layer.__class__ = kind
            for module in layer.modules():
                if type(module) is nn.Linear:
                    module.__class__ = PackedLinear
        part.layers = PackedRows(part.layers).train(part.training)
        part.positions.register_forward_pre_hook(packed_positions)
    model.register_forward_pre_hook(pack, with_kwargs=True)
    model.register_forward_hook(end_packing, always_call=True)
    return True


def is_packable(model: Any) -> bool:
    """True for a model that `pack_batches` has prepared."""
    return getattr(model.config, "_attn_implementation", None) == PACKED
