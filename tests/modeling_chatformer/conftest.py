import pytest
import torch

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration

# The models here are small, and threads would only contend.
torch.set_num_threads(1)


@pytest.fixture
def make_model():
    """Return a function that makes a model of random weights, equal for equal arguments."""

    def make(attention="sdpa", **fields):
        fields = {"d_model": 64, "d_ff": 96, "num_heads": 4, "encoder_layers": 3, "decoder_layers": 2, **fields}
        torch.manual_seed(0)
        model = ChatformerForConditionalGeneration(ChatformerConfig(vocab_size=101, **fields)).eval()
        with torch.no_grad():
            # At first all biases are zero and all norms are the identity, which would hide mistakes.
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.set_attn_implementation(attention)
        return model

    return make
