"""What the doctor's tests need: conversations of pairs, findings by check, and a small model that has learnt them."""

import datasets
import pytest
import torch

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.configuration.training import OptimizationSettings, TrainingSettings
from chatformer.data.batches import collate
from chatformer.data.exchanges import encode_exchanges
from chatformer.data.tokenizer import train_tokenizer
from chatformer.evaluation.doctor.conversations import Conversations
from chatformer.evaluation.doctor.run_log import RunLog


def messages_of(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="session")
def dataset_of():
    """Return a function that makes a conversation of each question and answer."""

    def make(pairs):
        message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
        return datasets.Dataset.from_dict(
            {"messages": [messages_of(*pair) for pair in pairs]},
            features=datasets.Features({"messages": datasets.List(message)}),
        )

    return make


@pytest.fixture(scope="session")
def conversations_of(dataset_of):
    """Return a function that makes what the checks look at of questions and answers."""
    return lambda pairs: Conversations(dataset_of(pairs))


@pytest.fixture(scope="session")
def healthy():
    """Return a function that makes so many questions with an answer each, all of them different."""
    return lambda count=2000: [(f"how much is {number}?", f"it is {number} won.") for number in range(count)]


@pytest.fixture(scope="session")
def ill():
    """Return a function that returns the findings of problems and hints by the name of their check."""
    return lambda findings: {finding.check: finding for finding in findings if finding.severity != "good"}


@pytest.fixture(scope="session")
def questions():
    """Return 40 questions with an answer each, all of them different."""
    return [(f"say {first}{second}", f"{second}{first}!") for first in "abcdefgh" for second in "stuvw"]


@pytest.fixture(scope="session")
def words(questions):
    """Return a tokenizer of the questions and answers, and these as exchanges."""
    texts = [text for pair in questions for text in pair]
    tokenizer = train_tokenizer(texts, vocab_size=550, has_history=False)
    rows = [{"messages": messages_of(*pair)} for pair in questions]
    return tokenizer, encode_exchanges(rows, tokenizer, 32, 32)


@pytest.fixture(scope="session")
def taught(words):
    """Return a function that trains a small model on all exchanges at once; it calls `prepare` before each step."""
    tokenizer, exchanges = words

    def train(*, steps=300, learning_rate=5e-3, prepare=lambda model: None):
        torch.manual_seed(0)
        config = ChatformerConfig(
            vocab_size=len(tokenizer), d_model=32, num_heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0
        )
        model = ChatformerForConditionalGeneration(config)
        model.generation_config.max_new_tokens = 16
        batch = collate(exchanges, range(len(exchanges)), tokenizer.pad_token_id)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.98))
        # To rest, or the last step decides by chance what was learnt.
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for _ in range(steps):
            prepare(model)
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        prepare(model)
        torch.set_num_threads(num_threads)
        return model.eval()

    return train


@pytest.fixture(scope="session")
def listening(taught):
    return taught()


@pytest.fixture
def model(listening):
    """Return the listening model, whose weights are as they were after the test."""
    weights = {name: weight.clone() for name, weight in listening.state_dict().items()}
    yield listening
    listening.load_state_dict(weights)


@pytest.fixture(scope="session")
def log_of():
    """Return a function that makes the log of a run whose evaluations had these source gains of 2 bits a character."""

    def make(gains, *, steps, **settings):
        evaluations = [
            {
                "step": steps * number // len(gains),
                "eval_loss": 3.0,
                "eval_source_gain": gain,
                "eval_bits_per_character": 2,
            }
            for number, gain in enumerate(gains, start=1)
        ]
        optimization = OptimizationSettings(**{"learning_rate": 1e-3, "warmup_steps": 200} | settings)
        return RunLog(
            TrainingSettings(optimization=optimization),
            [{"step": steps, "loss": 3.0, "learning_rate": 1e-4}, *evaluations],
        )

    return make
