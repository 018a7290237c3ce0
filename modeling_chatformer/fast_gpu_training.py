"""
Batches without padding, for training on GPUs in bfloat16 or float16. Except for rounding, they compute the same.

The real tokens of all sequences go through the layers in one row, and attention knows where each sequence begins. Short
ones take the kernel of short_attention.py, others torch's flash attention for sequences of different lengths. Letters
after a tensor's name are its axes: B batch, T tokens with padding, D d_model, H heads, C channels of one head, Q and K
queries and keys of all sequences.
"""

import inspect
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .fast_packing import Packing, tokens_of
from .layer_stack import LayerStack
from .modeling_chatformer import ChatformerForConditionalGeneration
from .seq2seq import shift_right

try:
    from torch.nn.attention import varlen

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
    query_QHC, key_KHC, value_KHC = (x[0].transpose(0, 1) for x in (query_BHQC, key_BHKC, value_BHKC))
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


class PackedRows(LayerStack):
    """A stack of layers through which a batch goes without padding while `packing` says where its tokens are."""

    evaluates_as = LayerStack
    packing: Packing | None = None
    own: PackedSequences
    memory: PackedSequences

    def forward(self, x_BTD: Tensor, masks: Sequence[Any], *inputs: Any, **options: Any) -> Any:
        if self.packing is None:
            return super().forward(x_BTD, masks, *inputs, **options)
        if inputs:
            # The encoder's result is packed already.
            inputs = (inputs[0], self.memory)
        return super().forward(self.packing.pack(x_BTD), [self.own], *inputs, **options)


def pack(model: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A hook before a model's forward: where only the loss of sources and their labels is wanted, pack them."""
    given = {name for name, value in options.items() if value is not None}
    batch = {"input_ids", "attention_mask", "labels"}
    if arguments or not batch <= given <= batch | ONLY_LOSS or options.get("return_logits") is not False:
        return None
    labels_BT = options["labels"]
    encoder, decoder = model.model.encoder.layers, model.model.decoder.layers
    for stack, is_token_BT in ((encoder, options["attention_mask"] != 0), (decoder, tokens_of(labels_BT))):
        # An attention needs a key in each sequence.
        is_token_BT[:, 0] |= ~is_token_BT.any(1)
        stack.packing = Packing.of(is_token_BT, model.config.num_heads)
        starts_B1 = nn.functional.pad(is_token_BT.sum(1).cumsum(0), (1, 0)).int()
        stack.own = PackedSequences(*[Starts(starts_B1, is_token_BT.shape[1])] * 2)
    decoder.memory = PackedSequences(decoder.own.queries, encoder.own.keys)
    _is_packing.set(True)
    config = model.config
    return (), {
        **options,
        "decoder_input_ids": shift_right(labels_BT, config.decoder_start_token_id, config.pad_token_id),
        "labels": labels_BT.flatten()[decoder.packing.tokens.with_padding][None],
    }


def end_packing(model: Any, *_: Any) -> None:
    """A hook after a model's forward."""
    _is_packing.set(False)
    model.model.encoder.layers.packing = model.model.decoder.layers.packing = None


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
    for part in (model.model.encoder, model.model.decoder):
        part.layers = PackedRows(part.layers).train(part.training)
    model.register_forward_pre_hook(pack, with_kwargs=True)
    model.register_forward_hook(end_packing, always_call=True)
    return True
