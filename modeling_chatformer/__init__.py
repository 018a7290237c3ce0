"""
Chatformer: the Transformer of "Attention Is All You Need", trained on your conversations, in the Hugging Face way.

    configuration_chatformer   the model's configuration, from the room of that name
    configuration_bahdanau     the same of the recurrent model
    configuration_ensemble     the same of several Transformers as one model
    embedding                  token vectors and positions
    pretrained                 what the models share: loading, saving, initial weights
    attention                  Equation 1, and several heads of it
    feed_forward               Equation 2
    sparse_attention           attention to a part of the tokens, of the Sparse Transformer; skip it at first
    layer_stack                layers, one upon the other
    encoder                    source -> memory
    decoder                    memory and target so far -> next target vectors
    loss                       logits and labels -> label-smoothed cross-entropy
    fast_products              products with weights on CPUs
    fast_packing               layers for the real tokens of a batch alone
    fast_loss                  the loss in chunks, with its gradient, and R-Drop
    fast_decoding              the decoder for one new token, without modules
    fast_search                greedy search and sampling around it
    fast_beam_search           beam search around it
    seq2seq                    what all architectures share: output layer, loss, `generate()`
    generation                 what `generate()` asks of the Transformer
    pictures                   a picture as text, a letter for each pixel
    one_script                 a reply is a picture or words, never both
    tunes                      a tune as text, and its bars
    conversation               text in its one form, conversation -> ids
    padding                    ids -> tensors
    reading                    the parts of a conversation that a chat template passes on
    pipeline_chatformer        `pipeline("seq2seq-chat")`
    modeling_chatformer        the model: its parts, put together
    modeling_ensemble          several Transformers as one model
    bahdanau_state             the cache of a recurrent decoder's state
    modeling_bahdanau          the rungs before it: a recurrent model, with and without attention
    fast_training              dropout, products and attention for training on CPUs
    short_attention            attention between short sequences, for training on GPUs
    fused_add_norm             dropout, sum and norm in one kernel, likewise
    fused_linear               linear layers with a quicker gradient of the bias, likewise
    fast_gpu_training          layers for the real tokens of a batch alone, for training on GPUs
    import_hooks               functions that wait for the import of a module
    registration               entries in transformers' auto classes, and `push_to_hub` with a card

Importing this package is quick: the classes below are loaded when they are first used. From then on, or from the moment
that transformers' auto classes are imported, AutoConfig, AutoModel and AutoModelForSeq2SeqLM know these models.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import MODELS, register_when_imported

if TYPE_CHECKING:
    from chatformer.configuration import SIZES, BahdanauConfig, ChatformerConfig, EnsembleConfig, sized_config

    from .modeling_bahdanau import BahdanauForConditionalGeneration, BahdanauModel
    from .modeling_chatformer import ChatformerForConditionalGeneration, ChatformerModel
    from .modeling_ensemble import EnsembleForConditionalGeneration, EnsembleModel

__version__ = "0.1.0"

__all__ = [
    "SIZES",
    "BahdanauConfig",
    "BahdanauForConditionalGeneration",
    "BahdanauModel",
    "ChatformerConfig",
    "ChatformerForConditionalGeneration",
    "ChatformerModel",
    "EnsembleConfig",
    "EnsembleForConditionalGeneration",
    "EnsembleModel",
    "sized_config",
]


register_when_imported()


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in ("chatformer.configuration", *MODELS.values()):
            module = importlib.import_module(home)
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
