import itertools
import math

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from chatformer.chat.engines import TransformersEngine
from chatformer.evaluation.figures import evaluate, figures_of
from chatformer.evaluation.scoring import (
    length_batches,
    others_of_like_length,
    outcome_of,
    sources_with_other_histories,
    turns_of,
)

SEARCH = {"do_sample": False, "num_beams": 1, "max_new_tokens": 12}


def test_the_loss_is_that_of_each_exchange_alone(model, exchanges, outcome):
    for index in range(len(exchanges)):
        source, target = (
            torch.tensor(ids.tolist())[None] for ids in (exchanges.source(index), exchanges.target(index))
        )
        with torch.no_grad():
            alone = model(source, labels=target).loss.item() * target.shape[1]
        assert outcome.nats[index] == pytest.approx(alone, rel=1e-5)
    figures = figures_of(exchanges, outcome, range(len(exchanges)))
    assert figures.loss == pytest.approx(outcome.nats.sum() / exchanges.target_lengths.sum())
    assert figures.perplexity == pytest.approx(math.exp(figures.loss))
    characters = len("".join(exchanges.replies))
    assert figures.bits_per_character == pytest.approx(outcome.nats.sum() / math.log(2) / characters)


def test_the_replies_are_those_of_generate_one_at_a_time(model, tokenizer, exchanges, outcome):
    alone = [
        tokenizer.decode(
            model.generate(torch.tensor([exchanges.source(index).tolist()]), do_sample=False, max_new_tokens=12)[0],
            skip_special_tokens=True,
        )
        for index in range(len(exchanges))
    ]
    assert outcome.replies == alone
    assert len(set(alone)) > 5


def test_small_batches_change_nothing(model, tokenizer, exchanges, outcome, short_greedy):
    batches = length_batches(exchanges, len(exchanges), 60)
    assert len(batches) > 5 and sorted(itertools.chain(*batches)) == list(range(len(exchanges)))
    small = outcome_of(TransformersEngine(model), tokenizer, exchanges, **short_greedy, batch_tokens=60)
    assert small.replies == outcome.replies
    assert small.nats == pytest.approx(outcome.nats, rel=1e-5)
    assert small.nats_without_source == pytest.approx(outcome.nats_without_source, rel=1e-5)


def test_beams_find_likelier_replies(model, tokenizer, exchanges, outcome):
    search = GenerationConfig(**SEARCH | {"num_beams": 4})
    beams = outcome_of(TransformersEngine(model), tokenizer, exchanges, max_replies=10, search=search)
    assert len(beams.replies) == 10
    assert beams.replies != outcome.replies[:10]


def test_no_run_of_tokens_stands_twice_where_that_is_asked(model, tokenizer, exchanges):
    def repeated(no_repeat_ngram_size, num_beams):
        sources = [exchanges.source(index) for index in range(len(exchanges))]
        options = {"num_beams": num_beams, "no_repeat_ngram_size": no_repeat_ngram_size}
        replies = TransformersEngine(model).generate(sources, GenerationConfig(**SEARCH | options))
        kept = [[token for token in reply if token not in tokenizer.all_special_ids] for reply in replies]
        return sum(len(set(itertools.pairwise(reply))) < len(reply) - 1 for reply in kept if reply)

    for num_beams in (1, 3):
        assert repeated(0, num_beams) > 0 == repeated(2, num_beams)


def test_evaluating_in_training_gives_the_same_and_leaves_the_model_in_training(model, tokenizer, exchanges, outcome):
    model.train()
    figures, replies = evaluate(model, tokenizer, exchanges, max_replies=5)
    assert model.training
    model.eval()
    assert figures.loss == pytest.approx(figures_of(exchanges, outcome, range(len(exchanges))).loss)
    assert len(replies) == 5 and figures.chrf is not None


def test_no_source_stands_beside_itself(model, exchanges, outcome):
    others = others_of_like_length(exchanges)
    assert sorted(others) == list(range(len(exchanges)))
    assert all(others != np.arange(len(exchanges)))
    for index in (0, 7):
        source = torch.tensor([exchanges.source(int(others[index])).tolist()])
        target = torch.tensor([exchanges.target(index).tolist()])
        with torch.no_grad():
            nats = model(source, labels=target).loss.item() * target.shape[1]
        assert outcome.nats_without_source[index] == pytest.approx(nats, rel=1e-5)


def test_a_history_is_exchanged_for_one_of_as_many_turns(model, tokenizer, exchanges, outcome):
    sources = sources_with_other_histories(exchanges, tokenizer)
    with_history = [index for index, history in enumerate(exchanges.histories) if len(turns_of(history)) > 1]
    assert set(sources) <= set(with_history) and len(sources) > len(with_history) / 2
    for index, source in sources.items():
        own = exchanges.source(index).tolist()
        question = tokenizer.encode(exchanges.histories[index][-1]["content"], add_special_tokens=False)
        # The question stays, and so does the system's message, before which nothing else stands.
        assert tokenizer.decode(question) in tokenizer.decode(source)
        assert (exchanges.histories[index][0]["role"] == "system") == (
            tokenizer.convert_tokens_to_ids("<|system|>") in source
        )
        with torch.no_grad():
            labels = torch.tensor([exchanges.target(index).tolist()])
            nats = model(torch.tensor([source]), labels=labels).loss.item() * labels.shape[1]
        assert outcome.nats_without_history[index] == pytest.approx(nats, rel=1e-5)
        assert (outcome.nats_without_history[index] == outcome.nats[index]) <= (source == own)
    assert np.isnan(outcome.nats_without_history[[i for i in range(len(exchanges)) if i not in sources]]).all()
    figures = figures_of(exchanges, outcome, range(len(exchanges)))
    saved = sum(outcome.nats_without_history[index] - outcome.nats[index] for index in sources) / math.log(2)
    assert figures.history_gain == pytest.approx(saved / sum(len(exchanges.replies[index]) for index in sources))


def test_another_model_of_transformers_can_be_evaluated(tokenizer, exchanges):
    torch.manual_seed(0)
    sizes = {f"{stack}_{name}": 2 for stack in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": len(tokenizer)}
    tokens = {"pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": 0}
    marian = MarianMTModel(MarianConfig(**sizes, **tokens, forced_eos_token_id=None)).eval()
    figures, replies = evaluate(marian, tokenizer, exchanges, max_replies=3)
    assert figures.loss == pytest.approx(math.log(len(tokenizer)), rel=0.1)
    assert len(replies) == 3
