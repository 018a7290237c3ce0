"""What the tests of scores and baselines need: exchanges, a model of random weights, and its scores and replies."""

import pytest
import torch
from transformers import GenerationConfig

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.chat.engines import TransformersEngine
from chatformer.data.exchanges import encode_exchanges
from chatformer.evaluation.scoring import outcome_of


@pytest.fixture(scope="session")
def short_greedy():
    """Return the options of `outcome_of` with which all replies are short and greedy."""
    return {"max_replies": None, "search": GenerationConfig(do_sample=False, num_beams=1, max_new_tokens=12)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def exchanges(conversations, tokenizer):
    return encode_exchanges(conversations[:40], tokenizer, 40, 40)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = ChatformerConfig(
        vocab_size=len(tokenizer),
        # Larger embeddings repeat the last token.
        embedding_initializer_range=0.02,
        d_model=32,
        d_ff=32,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    model = ChatformerForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # So that no two replies are alike.
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def outcome(model, tokenizer, exchanges, short_greedy):
    return outcome_of(TransformersEngine(model), tokenizer, exchanges, **short_greedy)


@pytest.fixture(scope="module")
def training(conversations):
    """Return questions and answers of which half of the answers are also those of the exchanges."""
    return [(made["messages"][-2]["content"], made["messages"][-1]["content"]) for made in conversations[20:60]]
