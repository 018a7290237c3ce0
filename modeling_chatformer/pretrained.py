"""What the model, its encoder and its decoder share: they are loaded, saved and given initial weights alike."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_chatformer import ChatformerConfig
from .embedding import SinusoidalPositions, sinusoids


class ChatformerPreTrainedModel(PreTrainedModel):
    """The base of all Chatformer models: configuration, initial weights, and the features that transformers may use."""

    config: ChatformerConfig
    config_class = ChatformerConfig
    base_model_prefix = "model"
    _input_embed_layer = "embedding"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            std = self.config.embedding_initializer_range
            init.normal_(module.weight, std=self.config.d_model**-0.5 if std is None else std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SinusoidalPositions):
            # from_pretrained first makes the model without memory: a table that is not saved must be computed again.
            init.copy_(module.table, sinusoids(*module.table.shape))

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights as torch does, also after `to_empty` and with `assign=True`."""
        keys = super().load_state_dict(*arguments, **options)
        # Both untie the four names of one matrix, and to_empty loses the table that is not saved.
        self.tie_weights()
        for module in self.modules():
            if isinstance(module, SinusoidalPositions):
                self._init_weights(module)
        return keys


def check_shows_attentions(config: ChatformerConfig) -> None:
    """Raise a `ValueError` if attention weights cannot be shown."""
    if config._attn_implementation not in ("eager", "sdpa"):
        # Other attentions have other masks, which the eager attention would misread.
        raise ValueError(
            f"output_attentions needs attn_implementation 'eager' or 'sdpa', but it is {config._attn_implementation!r}."
        )
