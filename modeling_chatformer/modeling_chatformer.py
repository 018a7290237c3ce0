"""
The Transformer of "Attention Is All You Need" (Vaswani et al., 2017, arXiv:1706.03762) as a transformers model.

Its parts, in the order in which data meets them: embedding, attention, feed_forward, encoder, decoder, loss. A file
called fast_* computes the same as its part, faster; skip it when reading. Letters after a tensor's name are its axes:
B batch, S source tokens, T target tokens, V vocabulary.
"""

from typing import TYPE_CHECKING

from torch import nn

from .configuration_chatformer import ChatformerConfig
from .decoder import Decoder
from .embedding import ScaledEmbedding
from .encoder import Encoder
from .fast_loss import fused_loss
from .generation import ChatformerGenerationMixin
from .pretrained import ChatformerPreTrainedModel, check_shows_attentions
from .seq2seq import EncoderDecoderMixin

if TYPE_CHECKING:
    # save_pretrained copies what is imported here: the folder's own pipeline.
    from .pipeline_chatformer import Seq2SeqChatPipeline  # noqa: F401


class ChatformerModel(EncoderDecoderMixin, ChatformerPreTrainedModel):
    """Encoder and decoder with one embedding for both, without the output layer (Figure 1)."""

    _tied_weights_keys = {
        "encoder.embedding.weight": "shared.weight",
        "decoder.embedding.weight": "shared.weight",
    }

    def __init__(self, config: ChatformerConfig):
        super().__init__(config)
        # The configuration may have changed since it was checked.
        config.validate_architecture()
        self.shared = ScaledEmbedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.post_init()

    def check_shows_attentions(self) -> None:
        check_shows_attentions(self.config)


class ChatformerForConditionalGeneration(ChatformerGenerationMixin, ChatformerPreTrainedModel):
    """The Transformer with its output layer, which shares the embedding (Section 3.4), its loss and `generate()`."""

    plain_model_class = ChatformerModel
    _tied_weights_keys = {
        "model.encoder.embedding.weight": "model.shared.weight",
        "model.decoder.embedding.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    }

    def __init__(self, config: ChatformerConfig):
        super().__init__(config)
        self.model = ChatformerModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.output_bias)
        self.loss_function = fused_loss
        self.post_init()


__all__ = ["ChatformerForConditionalGeneration", "ChatformerModel", "ChatformerPreTrainedModel"]
