"""The position-wise feed-forward network: Section 3.3 of "Attention Is All You Need"."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from .configuration_chatformer import ChatformerConfig


class FeedForward(nn.Module):
    """FFN(x) = max(0, x W_1 + b_1) W_2 + b_2, at each position alone: Equation 2, unless another activation is set."""

    def __init__(self, config: ChatformerConfig):
        super().__init__()
        # ChatformerConfig sets it to 4 * d_model unless it is given.
        assert config.d_ff is not None
        self.inner = nn.Linear(config.d_model, config.d_ff)
        self.activation = ACT2FN[config.activation]
        self.dropout = nn.Dropout(config.activation_dropout)
        self.output = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dropout(self.activation(self.inner(x))))
