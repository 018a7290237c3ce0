import pytest
import torch

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.fast_decoding import NextToken

# The models here are small, and threads would only contend.
torch.set_num_threads(1)


@pytest.fixture
def make_model():
    """Return a function that makes a model of random weights, equal for equal arguments."""

    def make(attention="sdpa", **fields):
        fields = {"d_model": 64, "d_ff": 96, "num_heads": 4, "encoder_layers": 3, "decoder_layers": 2, **fields}
        # Larger embeddings repeat the last token.
        fields = {"embedding_initializer_range": 0.02, **fields}
        torch.manual_seed(0)
        model = ChatformerForConditionalGeneration(ChatformerConfig(vocab_size=101, **fields)).eval()
        with torch.no_grad():
            # At first all biases are zero and all norms are the identity, which would hide mistakes.
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.set_attn_implementation(attention)
        return model

    return make


@pytest.fixture
def made(monkeypatch):
    """The decoders without modules that `generate()` has made: one for each generation and, in ensembles, member."""
    made, make = [], NextToken.__init__

    def init(self, *arguments):
        made.append(self)
        make(self, *arguments)

    monkeypatch.setattr(NextToken, "__init__", init)
    return made


@pytest.fixture(scope="session")
def copying_model():
    """
    Return a model that has learned to repeat sources of one to nine tokens of 3 to 19.

    A model of random weights repeats one token whatever the source, and its replies would hide mistakes.
    """
    torch.manual_seed(0)
    shape = {"d_model": 64, "d_ff": 128, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.0}
    # Small embeddings: in few steps it learns to look at positions.
    config = ChatformerConfig(vocab_size=20, embedding_initializer_range=0.02, **shape)
    model = ChatformerForConditionalGeneration(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.02, total_iters=50)
    position = torch.arange(10)
    for _ in range(240):
        length = torch.randint(1, 10, (64, 1))
        tokens = torch.randint(3, 20, (64, 10))
        labels = tokens.where(position < length, model.config.eos_token_id).masked_fill(position > length, -100)
        loss = model(tokens[:, :9], (position[:9] < length).long(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
    assert loss < 0.3, f"The model did not learn to repeat its source: the loss is still {loss}."
    return model.eval()
