import dataclasses
import json
import re
import sys
import unicodedata

import datasets
import numpy as np
import pytest
import torch
from transformers.masking_utils import create_bidirectional_mask

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.data.batches import collate
from chatformer.data.exchanges import encode_exchanges
from chatformer.data.preparation import starter_corpus
from chatformer.data.tokenizer import train_tokenizer
from chatformer.evaluation.doctor import model as model_doctor
from chatformer.evaluation.doctor.conversations import Conversations
from chatformer.evaluation.doctor.data import check_bad_rows, check_conversations, check_leaks, check_size
from chatformer.evaluation.doctor.lengths import Lengths, check_lengths, draw_lengths, length_bins, lengths_of
from chatformer.evaluation.doctor.text import misread
from chatformer.training.settings import OptimizationSettings, TrainingSettings


def dataset_of(pairs):
    message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    made = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    return datasets.Dataset.from_dict(
        {"messages": made}, features=datasets.Features({"messages": datasets.List(message)})
    )


def healthy(count=2000):
    """Return questions with an answer each, all of them different."""
    return [(f"how much is {number}?", f"it is {number} won.") for number in range(count)]


def ill(findings):
    return {finding.check: finding for finding in findings if finding.severity != "good"}


def test_the_starter_corpus_has_nothing_wrong():
    conversations = Conversations(starter_corpus().conversations)
    findings = check_conversations(conversations) + check_lengths(conversations, lengths_of(conversations))
    assert ill(findings) == {}
    assert len({finding.check for finding in findings}) == len(findings) >= 11
    assert all(finding.title and not finding.what_to_do for finding in findings)


def test_data_in_which_nothing_is_wrong():
    assert ill(check_conversations(Conversations(dataset_of(healthy())))) == {}


@pytest.mark.parametrize(
    ("change", "check", "severity", "words"),
    [
        (lambda pairs: pairs[:100], "amount", "problem", ["100 conversations"]),
        (lambda pairs: pairs[:500], "amount", "hint", ["500 conversations"]),
        (lambda pairs: [*pairs, *pairs[:100]], "duplicates", "hint", ["100 of 2,100", "100 word for word"]),
        (
            lambda pairs: [*pairs, *((q.upper(), f"  {a}") for q, a in pairs)],
            "duplicates",
            "problem",
            ["2,000 but for case and spaces", "conversation 2001: HOW MUCH IS 0?", "also in conversation 1)"],
        ),
        (
            lambda pairs: [(f"what {number % 100}", a) for number, (_, a) in enumerate(pairs)],
            "many answers",
            "problem",
            ["100 of 100 questions", "what 0 → 20 answers, such as it is 0 won. | it is 100 won."],
        ),
        (
            lambda pairs: [(q, a if number % 8 else "I don't know.") for number, (q, a) in enumerate(pairs)],
            "frequent answers",
            "problem",
            ['12% of all replies are "I don\'t know."', "250 times"],
        ),
        (
            lambda pairs: [(q, q.upper() if number % 10 == 3 else a) for number, (q, a) in enumerate(pairs)],
            "echoes",
            "problem",
            ["200 of 2,000 (10%)", "conversation 4: how much is 3? → HOW MUCH IS 3?"],
        ),
        (
            lambda pairs: [(q, "?!" + "." * (number % 30) if number % 3 else a) for number, (q, a) in enumerate(pairs)],
            "empty answers",
            "problem",
            ["1,333 of 2,000"],
        ),
        (
            lambda pairs: [(f"User: {q}", f"Bot: {a}") for q, a in pairs],
            "labels in text",
            "problem",
            ["User: how much is 0?"],
        ),
        (lambda pairs: [*pairs, ("hm", "so<|end|>")], "labels in text", "hint", ["conversation 2001", "<|end|>"]),
        (lambda pairs: [(q, str(number % 3)) for number, (q, _) in enumerate(pairs)], "labels", "problem", ["'0'"]),
        (lambda pairs: [(a, q) for q, a in pairs], "labels", "hint", ["100% of the answers", "0% of the questions"]),
        (
            lambda pairs: [*pairs, *((f"뭐야 {number}", f"그건 {number}") for number in range(20))],
            "languages",
            "hint",
            ["Latin 99%, Hangul 0.99%", "conversation 2001"],
        ),
    ],
)
def test_data_that_is_ill_in_one_way(change, check, severity, words):
    finding = ill(check_conversations(Conversations(dataset_of(change(healthy())))))[check]
    assert finding.severity == severity
    assert finding.what_to_do
    told = "\n".join([finding.found, *finding.examples])
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("text", "title", "example"),
    [
        ("나는 \ufffd\ufffd 좋아", "Characters that were lost (U+FFFD)", "\ufffd"),
        ("안녕".encode().decode("latin-1"), "Text that was read in the wrong encoding", "for 안녕"),
        ("café".encode().decode("cp1252"), "Text that was read in the wrong encoding", "Ã© for é"),
        ("it’s".encode().decode("cp1252"), "Text that was read in the wrong encoding", "for ’"),
        ("안녕하세요".encode("cp949").decode("latin-1"), "Text that was read in the wrong encoding", "for 안녕하세요"),
        ("占쏙옙 뭐야", "Text that was read in the wrong encoding", "占쏙옙"),
        ("a\x07b", "Control characters", "\\x07"),
        ("a\ue123b", "Private-use characters", "\\ue123"),
        ("a\u200bb", "Invisible characters", "\\u200b"),
        ("Tom &amp; Jerry", "HTML", "&amp;"),
        ("one<br/>two", "HTML", "<br/>"),
        (unicodedata.normalize("NFD", "하"), "Letters in pieces (not NFC)", "conversation 1"),
        ("ＡＢＣ", "Full-width letters or half-width kana and jamo", "ＡＢＣ"),
    ],
)
def test_text_that_is_broken(text, title, example):
    pairs = healthy(20)
    (finding,) = (
        finding
        for finding in check_conversations(Conversations(dataset_of([("what?", text), *pairs])))
        if finding.check in ("broken text", "unusual text") and finding.severity != "good"
    )
    assert finding.title == title
    assert finding.found.startswith("In 1 of 21 conversations")
    assert example in finding.examples[0] and finding.examples[0].isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "큰칼 콱 파판 츌",
        "大韓民國 만세",
        "CAFÉ! naïve “quoted”…",
        "日本語です、カタカナ",
        "你好世界",
        "Ünlü Şarkı",
        "¿Qué?",
    ],
)
def test_what_was_read_right_is_not_taken_for_misread(text):
    assert misread(text) is None


def test_leaks_between_the_splits():
    pairs = healthy(200)
    training, clean = Conversations(dataset_of(pairs[:100])), Conversations(dataset_of(pairs[100:]))
    assert ill(check_leaks(training, clean)) == {}
    leaking = Conversations(dataset_of([*pairs[100:], ("How  much is 7?", "seven")]))
    finding = ill(check_leaks(training, leaking))["leaks"]
    assert finding.severity == "hint" and "1 of 101" in finding.found
    assert "in training: conversation 8" in finding.examples[0]
    assert ill(check_leaks(training, Conversations(dataset_of(pairs[95:]))))["leaks"].severity == "problem"

    behind_others = dataset_of(pairs[100:]).map(
        lambda row: {
            "messages": [
                *row["messages"],
                {"role": "user", "content": pairs[3][0]},
                {"role": "assistant", "content": pairs[3][1]},
            ]
        }
    )
    findings = ill(check_leaks(training, Conversations(behind_others)))
    assert list(findings) == ["leaked answers"] and "100 of 200" in findings["leaked answers"].found


def test_rows_that_are_no_conversation():
    rows = [{"file": "a.csv", "row": 7, "reason": "the answer is empty", "content": "x"}]
    (finding,) = check_bad_rows(rows, 10, left_out=False)
    assert finding.severity == "problem" and finding.examples == ("a.csv, row 7: the answer is empty",)
    assert check_bad_rows(rows, 10, left_out=True)[0].severity == "hint"
    assert check_bad_rows([], 10, left_out=False)[0].severity == "good"


def test_lengths_in_characters_and_in_tokens(tokenizer, tmp_path):
    pairs = [*healthy(99), ("why?", "so " * 100)]
    conversations = Conversations(dataset_of(pairs))
    lengths = lengths_of(conversations)
    assert lengths.unit == "characters"
    assert lengths.sources.tolist() == [len(question) for question, _ in pairs]
    assert lengths.targets.tolist() == [len(answer) for _, answer in pairs]
    finding = ill(check_lengths(conversations, lengths))["outliers"]
    assert "1 have more than" in finding.found and finding.examples[0].startswith("300 characters, conversation 100")

    lengths = lengths_of(conversations, tokenizer)
    assert lengths.unit == "tokens"
    assert lengths.targets.tolist() == [len(tokenizer(answer)["input_ids"]) for _, answer in pairs]
    limit = int(lengths.targets[-1]) - 1
    finding = ill(check_lengths(conversations, lengths, max_target_tokens=limit))["too long"]
    assert finding.severity == "hint" and f"1 of 100 replies (1%) are longer than --max-target-tokens {limit}" in (
        finding.found
    )
    assert f"--max-target-tokens {limit + 1} would hold all of them" in finding.what_to_do
    assert "too long" not in ill(check_lengths(conversations, lengths, max_target_tokens=limit + 1))
    finding = ill(check_lengths(conversations, lengths, max_source_tokens=3))["too long"]
    assert finding.severity == "problem" and "lose their beginning" in finding.found

    picture = tmp_path / "lengths.png"
    assert draw_lengths(lengths, picture, limits=(10, None))
    assert picture.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [picture]


def test_bins_hold_every_length_once():
    lengths = Lengths(unit="tokens", sources=np.array([3, 4, 5, 8, 9]), targets=np.array([2, 2, 3, 16, 17]))
    assert length_bins(lengths) == [(2, 2, 0, 2), (3, 4, 2, 1), (5, 8, 2, 0), (9, 16, 1, 1), (17, 32, 0, 1)]


def test_a_model_too_large_for_its_data():
    assert check_size(4_000_000, 77_000)[0].severity == "good"
    assert check_size(60_000_000, 77_000)[0].severity == "hint"
    assert check_size(60_000_000, 7_000)[0].severity == "problem"


QUESTIONS = [(f"say {first}{second}", f"{second}{first}!") for first in "abcdefgh" for second in "stuvw"]


@pytest.fixture(scope="module")
def words():
    """Return a tokenizer and 40 exchanges, each with an answer of its own."""
    made = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in QUESTIONS]
    tokenizer = train_tokenizer([text for pair in QUESTIONS for text in pair], vocab_size=550, has_history=False)
    return tokenizer, encode_exchanges(made, tokenizer, 32, 32)


def taught(words, *, steps=300, learning_rate=5e-3, prepare=lambda model: None):
    """Return a small model, trained on all exchanges at once; `prepare` is called before each step."""
    tokenizer, exchanges = words
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


@pytest.fixture(scope="module")
def listening(words):
    return taught(words)


@pytest.fixture
def model(listening):
    """Return the listening model, whose weights are as they were after the test."""
    kept = {name: weight.clone() for name, weight in listening.state_dict().items()}
    yield listening
    listening.load_state_dict(kept)


def examined(model, words, **options):
    tokenizer, exchanges = words
    findings = model_doctor.check_parts(model, tokenizer)
    return findings + model_doctor.check_behaviour(model, tokenizer, exchanges, max_exchanges=40, **options)


def log_of(gains, *, steps, **settings):
    evaluations = [
        {"step": steps * number // len(gains), "eval_loss": 3.0, "eval_source_gain": gain, "eval_bits_per_character": 2}
        for number, gain in enumerate(gains, start=1)
    ]
    return model_doctor.RunLog(
        TrainingSettings(optimization=OptimizationSettings(**{"learning_rate": 1e-3, "warmup_steps": 200} | settings)),
        [{"step": steps, "loss": 3.0, "learning_rate": 1e-4}, *evaluations],
    )


def test_a_model_that_listens_is_well(model, words):
    findings = examined(model, words, known=words[1], training=[("another question", "another one")])
    assert ill(findings) == {}
    assert {finding.check for finding in findings} == {
        *("weights", "tied embeddings", "vocabulary", "chat template", "round trip", "generation", "future", "padding"),
        *("knowledge", "listening", "same reply", "copies", "baselines", "memory"),
    }
    (found,) = (finding.found for finding in findings if finding.check == "same reply")
    assert int(re.match(r"40 different questions got (\d+) different replies", found)[1]) > 30


def silence_cross_attention(model):
    for layer in model.model.decoder.layers:
        layer.cross_attention.output.weight.data.zero_()


def shrink_final_norm(model):
    model.model.encoder.layers[-1].feed_forward_norm.weight.data.zero_()


def drown_the_source(model):
    model.model.encoder.layers[-1].feed_forward_norm.bias.data.fill_(1000)


@pytest.mark.parametrize(
    ("prepare", "cause"),
    [
        (silence_cross_attention, "the decoder does not read them"),
        (shrink_final_norm, "The encoder's last norm has shrunk to 0"),
        (drown_the_source, "The encoder gives the same for every question"),
    ],
    ids=["cross-attention", "final norm", "encoder"],
)
def test_a_model_that_learnt_deaf_is_told_where(words, prepare, cause):
    found = ill(examined(taught(words, steps=60, prepare=prepare), words))
    assert found["listening"].severity == found["same reply"].severity == "problem"
    assert found["listening"].title == "It does not listen"
    assert found["same reply"].title == "Every input gets the same answer"
    assert cause in found["listening"].found
    assert found["listening"].what_to_do.startswith("Train anew")
    assert "It does not listen" in found["same reply"].found


def test_the_log_tells_why_a_model_never_listened(words):
    deaf = taught(words, steps=60, learning_rate=0.3)
    log = log_of([0.001, 0.0, 0.002], steps=5000, learning_rate=4e-3, warmup_steps=100)
    finding = ill(examined(deaf, words, log=log))["listening"]
    assert finding.severity == "problem"
    assert "--learning-rate 0.004" in finding.found and "--warmup-steps 100" in finding.found
    assert "--learning-rate 0.001 --warmup-steps 1000" in finding.what_to_do


def test_causes_are_named_by_what_the_log_and_the_data_say(model, words):
    def told(log, share=None):
        return [cause.found for cause in model_doctor.causes(model, words[1], log, share)]

    assert told(None) == told(log_of([0.2, 0.5], steps=5000), 0.01) == []
    (young,) = told(log_of([0.0, 0.01], steps=400))
    assert "only 400 steps" in young
    (rate,) = told(log_of([0.0, 0.01], steps=4000))
    assert "was too high" in rate
    (stopped,) = told(log_of([0.4, 0.1], steps=4000))
    assert "had listened before (20% of the loss)" in stopped
    (data,) = told(None, 0.3)
    assert "30% of the answers" in data


def test_a_frequent_answer_that_became_the_only_one(words):
    tokenizer, exchanges = words
    parrot = taught(words, steps=0)
    trial = model_doctor.try_out(parrot, tokenizer, exchanges)
    trial = dataclasses.replace(
        trial,
        outcome=dataclasses.replace(trial.outcome, replies=["네"] * 25 + [answer for _, answer in QUESTIONS[25:]]),
    )
    (finding,) = model_doctor.check_replies(trial, [model_doctor.Cause("Because.", "Do.")])
    assert finding.severity == "problem" and "25 times (62%). Because." in finding.found
    assert finding.what_to_do == "Do." and finding.examples[0] == "25 times: 네"
    # Nothing was learnt either.
    assert model_doctor.check_knowledge(trial, len(tokenizer))[0].severity == "problem"


def test_a_decoder_that_sees_the_future_is_caught(model, words, monkeypatch):
    assert ill(model_doctor.check_future(model, words[1])) == {}

    def see_all(config, inputs_embeds, attention_mask, *arguments, **options):
        return create_bidirectional_mask(config, inputs_embeds, None)

    module = sys.modules[type(model.model.decoder).__module__]
    monkeypatch.setattr(module, "create_causal_mask", see_all)
    monkeypatch.setattr(model.model.decoder.layers[0].self_attention, "is_causal", False)
    (finding,) = model_doctor.check_future(model, words[1])
    assert finding.severity == "problem" and finding.check == "future"


def test_padding_that_is_not_masked_is_caught(model, words, monkeypatch):
    forward = type(model).forward

    def without_mask(self, attention_mask=None, **inputs):
        return forward(self, attention_mask=None, **inputs)

    monkeypatch.setattr(type(model), "forward", without_mask)
    (finding,) = model_doctor.check_padding(model, words[1])
    assert finding.severity == "problem" and "on the right" in finding.found and "on the left" in finding.found


def test_positions_that_count_padding_are_caught(model, words, monkeypatch):
    def count_all(mask_BT):
        return torch.arange(mask_BT.shape[1]).expand_as(mask_BT)

    monkeypatch.setattr(sys.modules[type(model.model.encoder).__module__], "positions_of", count_all)
    (finding,) = model_doctor.check_padding(model, words[1])
    assert finding.severity == "hint" and "on the left" in finding.found and "on the right" not in finding.found


def test_weights_that_tell_nothing(model):
    assert ill(model_doctor.check_weights(model)) == {}
    model.model.encoder.layers[0].feed_forward.inner.weight.data.fill_(0.5)
    model.model.decoder.layers[0].self_attention.query.weight.data[0, 0] = torch.nan
    found = ill(model_doctor.check_weights(model, ["lm_head.bias"]))
    assert found["constant weights"].examples == ("model.encoder.layers.0.feed_forward.inner.weight",)
    assert found["finite weights"].examples == ("model.decoder.layers.0.self_attention.query.weight",)
    assert found["missing weights"].examples == ("lm_head.bias",)
    assert {finding.severity for finding in found.values()} == {"problem"}


def test_embeddings_that_came_apart(words):
    model = taught(words, steps=0)
    assert ill(model_doctor.check_embeddings(model)) == {}
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    finding = ill(model_doctor.check_embeddings(model))["tied embeddings"]
    assert finding.severity == "problem" and finding.examples == ("lm_head.weight",)


def test_a_tokenizer_of_another_model(model, words, tokenizer):
    assert ill(model_doctor.check_vocabulary(model, words[0])) == {}
    assert len(tokenizer) != len(words[0])
    other = train_tokenizer([chr(0xAC00 + number) * 2 for number in range(300)], vocab_size=700)
    assert ill(model_doctor.check_vocabulary(model, other))["vocabulary"].severity == "problem"
    other = train_tokenizer(["ab"], vocab_size=550)
    other.eos_token = other.pad_token
    assert (
        "eos_token_id: 0 in the tokenizer, 2 in the model"
        in (ill(model_doctor.check_vocabulary(model, other))["vocabulary"].examples[0])
    )
    other.chat_template = None
    assert ill(model_doctor.check_template(other))["chat template"].severity == "problem"


def test_a_tokenizer_that_loses_text(words):
    from tokenizers import normalizers

    tokenizer = train_tokenizer(["Ab cd"], vocab_size=550)
    texts = ["안녕  하세요 😀", "Ab cd", " x"]
    assert ill(model_doctor.check_round_trip(tokenizer, texts)) == {}
    lowered = normalizers.Sequence([normalizers.Lowercase(), tokenizer.backend_tokenizer.normalizer])
    tokenizer.backend_tokenizer.normalizer = lowered
    finding = ill(model_doctor.check_round_trip(tokenizer, texts))["round trip"]
    assert finding.severity == "problem" and finding.examples == ("Ab cd became ab cd",)


def test_settings_with_which_replies_break_off_or_never_end(words):
    model, lengths = taught(words, steps=0), np.array([5, 5, 12])
    assert ill(model_doctor.check_generation(model, lengths)) == {}
    model.generation_config.max_new_tokens = 10
    finding = ill(model_doctor.check_generation(model, lengths))["generation length"]
    assert finding.severity == "problem" and "33%" in finding.found
    model.generation_config.max_new_tokens = None
    assert ill(model_doctor.check_generation(model, lengths))["generation length"].severity == "hint"
    model.generation_config.eos_token_id = None
    assert ill(model_doctor.check_generation(model, lengths))["generation end"].severity == "problem"


def test_few_questions_are_not_judged(model, words):
    tokenizer, _ = words
    one = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in QUESTIONS[:1]
    ]
    exchanges = encode_exchanges(one * 40, tokenizer, 32, 32)
    findings = model_doctor.check_behaviour(model, tokenizer, exchanges, max_exchanges=40)
    assert list(ill(findings)) == ["trial"] and "Only 1 different" in ill(findings)["trial"].found


def test_different_questions_are_spread_over_the_data(words):
    _, exchanges = words
    chosen = model_doctor.different_questions(exchanges, 4)
    assert chosen.replies == [QUESTIONS[index][1] for index in (0, 13, 26, 39)]
    assert [chosen.source(1).tolist(), chosen.target(1).tolist()] == [
        exchanges.source(13).tolist(),
        exchanges.target(13).tolist(),
    ]


def test_memory_and_vocabulary():
    assert model_doctor.check_memory(new=2.0, known=1.8)[0].severity == "good"
    assert model_doctor.check_memory(new=3.6, known=0.2)[0].severity == "hint"
    assert model_doctor.check_vocabulary_size(6000, 77_000)[0].severity == "good"
    finding = model_doctor.check_vocabulary_size(8000, 20_000)[0]
    assert finding.severity == "hint" and "--vocab-size 2000" in finding.what_to_do


@pytest.mark.parametrize(
    ("losses", "evaluations", "rate", "check", "words"),
    [
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.49], 1e-3, None, "at its best (step 3)"),
        ([5.0, 2.0, 3.0], [3.0, 2.5, 2.6], 1e-3, "divergence", "ended at 3.000, after 2.000"),
        ([5.0, 2.0, float("nan")], [3.0, 2.5, 2.6], 1e-3, "divergence", "ended at nan"),
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.3], 1e-3, "training", "2.300 at the end (step 3)."),
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.3], 0.0, "training", "the rate down to nothing"),
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.9], 1e-3, None, "2.500 at its best (step 2)"),
    ],
)
def test_what_a_log_tells(tmp_path, losses, evaluations, rate, check, words):
    lines = []
    for step, (loss, eval_loss) in enumerate(zip(losses, evaluations, strict=True), start=1):
        lines.append({"step": step, "loss": loss, "learning_rate": 1e-3 if step < 3 else rate})
        lines.append({"step": step, "eval_loss": eval_loss})
    (tmp_path / "training_settings.yaml").write_text("max_steps: 3\n", "utf-8")
    # A run that was killed leaves half a line.
    log = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo'
    (tmp_path / "training_log.jsonl").write_text(log, "utf-8")
    findings = model_doctor.check_log(model_doctor.RunLog.of(tmp_path))
    assert list(ill(findings)) == ([] if check is None else [check])
    assert words in findings[0].found
    (tmp_path / "training_log.jsonl").unlink()
    assert model_doctor.RunLog.of(tmp_path) is None
