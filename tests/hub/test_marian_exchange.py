import json

import pytest
import sentencepiece
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianMTModel, MarianTokenizer

from chatformer import ChatformerForConditionalGeneration
from chatformer.cli.main import main
from chatformer.conversation import encode_conversation
from chatformer.data.exchanges import encode_exchanges
from chatformer.hub.formats.parity import SENTENCES

SOURCE = torch.tensor([[7, 3, 50, 9, 11, 0], [8, 4, 0, 100, 100, 100]])
MASK = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
TARGET = torch.tensor([[100, 5, 6, 7, 8], [100, 90, 4, 3, 2]])


@torch.no_grad()
def logits(model):
    return model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"activation_function": "relu", "encoder_layers": 1, "decoder_layers": 3},
        {"activation_function": "silu"},
        {"activation_function": "gelu", "bos_token_id": 1},
        {"scale_embedding": False},
        {"encoder_layerdrop": 0.1, "decoder_layerdrop": 0.1},
        {"num_beams": 4, "max_length": 20, "bad_words_ids": [[100]], "forced_eos_token_id": 0},
    ],
    ids=str,
)
def test_marian_comes_in_and_goes_out_again(make_marian, tmp_path, fields):
    generation = {key: fields.pop(key) for key in ("num_beams", "max_length", "bad_words_ids") if key in fields}
    marian = make_marian(**fields)
    marian.generation_config.update(**generation)
    marian.save_pretrained(tmp_path / "marian")
    assert main(["import", str(tmp_path / "marian"), "--output-dir", str(tmp_path / "ours")]) == 0
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert type(ours) is ChatformerForConditionalGeneration
    assert_close(logits(ours), logits(marian))
    options = {"attention_mask": MASK, "max_new_tokens": 15}
    assert torch.equal(ours.generate(SOURCE, **options), marian.generate(SOURCE, **options))
    for key, value in generation.items():
        assert getattr(ours.generation_config, key) == value


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
@pytest.mark.parametrize("output_bias", [False, True])
def test_chatformer_goes_out_and_comes_in_again(saved, tmp_path, capsys, activation, output_bias):
    folder, model = saved(activation=activation, output_bias=output_bias)
    assert main(["export", str(folder), "--to", "marian", "--output-dir", str(tmp_path / "marian")]) == 0
    assert "12 of 12 greedy replies are equal" in capsys.readouterr().out
    marian = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "marian")
    assert type(marian) is MarianMTModel
    assert "auto_map" not in json.loads((tmp_path / "marian" / "config.json").read_text())
    assert_close(logits(marian), logits(model))
    ids = AutoTokenizer.from_pretrained(folder)(SENTENCES[6]).input_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "marian")(SENTENCES[6]).input_ids == ids
    assert main(["import", str(tmp_path / "marian"), "--output-dir", str(tmp_path / "again")]) == 0
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    assert again.config.output_bias == output_bias
    for (name, found), (_, expected) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(found, expected), name


def test_half_precision_stays_as_it_is(make_marian, tmp_path):
    make_marian().half().save_pretrained(tmp_path / "marian")
    assert main(["import", str(tmp_path / "marian"), "--output-dir", str(tmp_path / "ours")]) == 0
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").dtype == torch.float16


@pytest.fixture
def marian_tokenizer(tmp_path):
    folder = tmp_path / "pieces"
    folder.mkdir()
    text = folder / "text.txt"
    text.write_text("\n".join(SENTENCES[6:] * 20))
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(folder / side), vocab_size=60, hard_vocab_limit=False, num_threads=1,
            character_coverage=1.0, minloglevel=2,
        )  # fmt: skip
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    learnt = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())]
    tokens = ["</s>", "<unk>", *(piece for piece in learnt if piece not in ("<s>", "</s>", "<unk>"))][:100]
    vocabulary = {**{token: row for row, token in enumerate(tokens)}, "<pad>": 100}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [None, {"source_lang": "en", "target_lang": "de"}], ids=["without", "with"])
def test_the_sentencepiece_tokenizer_comes_along(make_marian, marian_tokenizer, tmp_path, config):
    marian = make_marian()
    folder = tmp_path / "marian"
    marian.save_pretrained(folder)
    for name in ("source.spm", "target.spm", "vocab.json"):
        (folder / name).write_bytes((marian_tokenizer / name).read_bytes())
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    expected = MarianTokenizer.from_pretrained(folder)
    assert main(["import", str(folder), "--output-dir", str(tmp_path / "ours")]) == 0
    for target, path in (
        ("ours", tmp_path / "ours"),
        ("marian", tmp_path / "again"),
        ("ctranslate2", tmp_path / "ct2"),
    ):
        if target != "ours":
            assert main(["export", str(tmp_path / "ours"), "--to", target, "--output-dir", str(path)]) == 0
        found = AutoTokenizer.from_pretrained(path)
        assert type(found) is MarianTokenizer
        # Text goes in as `generate` reads it, and what people type ends nothing.
        for text in (*SENTENCES, ">>de<< two"):
            assert encode(found, text) == expected(text).input_ids
        *inside, end = encode(found, "a</s>b<pad>")
        assert end == expected.eos_token_id and not {end, expected.pad_token_id} & set(inside)
        assert found.source_lang == expected.source_lang
        for sentence in SENTENCES:
            ids = expected(sentence).input_ids
            assert found(sentence).input_ids == ids
            assert found.decode(ids, skip_special_tokens=True) == expected.decode(ids, skip_special_tokens=True)


def encode(tokenizer, text):
    return encode_conversation(tokenizer, [{"role": "user", "content": text}])


@pytest.mark.filterwarnings("ignore")
def test_what_is_imported_replies_to_lines(make_marian, marian_tokenizer, tmp_path, capsys):
    make_marian().save_pretrained(tmp_path / "marian")
    for name in ("source.spm", "target.spm", "vocab.json"):
        (tmp_path / "marian" / name).write_bytes((marian_tokenizer / name).read_bytes())
    ours = str(tmp_path / "ours")
    assert main(["import", str(tmp_path / "marian"), "--output-dir", ours]) == 0
    (tmp_path / "lines.txt").write_text("one line\n\nand another\n")
    flags = ["--data", str(tmp_path / "lines.txt"), "--device", "cpu", "--max-new-tokens", "5"]
    assert main(["generate", ours, *flags, "--output-file", str(tmp_path / "replies.txt")]) == 0, (
        capsys.readouterr().err
    )
    assert len((tmp_path / "replies.txt").read_text("utf-8").split("\n")) == 4
    # What an evaluation reads.
    source, target = SENTENCES[6:8]
    talk = [{"role": "user", "content": source}, {"role": "assistant", "content": target}]
    tokenizer = AutoTokenizer.from_pretrained(ours)
    exchanges = encode_exchanges([{"messages": talk}], tokenizer, 500, 500)
    assert exchanges.source(0).tolist() == tokenizer(source).input_ids
    assert exchanges.target(0).tolist() == tokenizer(text_target=target).input_ids


def config_with(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


def save_with(**fields):
    return lambda make_marian, folder: make_marian(**fields).save_pretrained(folder)


def save_then(change):
    def save(make_marian, folder):
        make_marian().save_pretrained(folder)
        change(folder)

    return save


def save_changed(change):
    def save(make_marian, folder):
        marian = make_marian()
        weights = {name: tensor.clone() for name, tensor in marian.state_dict().items()}
        change(weights)
        torch.save(weights, folder.with_suffix(".bin"))
        marian.config.save_pretrained(folder)
        folder.with_suffix(".bin").rename(folder / "pytorch_model.bin")

    return save


def learn_positions(weights):
    weights["model.encoder.embed_positions.weight"] += 0.1


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (save_with(decoder_attention_heads=6), ["decoder_attention_heads (6)", "encoder_attention_heads (3)"]),
        (save_with(decoder_ffn_dim=96), ["decoder_ffn_dim (96)", "encoder_ffn_dim (70)", "d_ff"]),
        (
            save_with(decoder_vocab_size=90, share_encoder_decoder_embeddings=False, pad_token_id=5),
            ["decoder_vocab_size (90)", "vocab_size (101)"],
        ),
        (save_with(share_encoder_decoder_embeddings=False), ["share_encoder_decoder_embeddings", "one matrix"]),
        (save_with(tie_word_embeddings=False), ["tie_word_embeddings", "one matrix"]),
        (save_with(activation_function="tanh"), ["activation", "'tanh'", "relu, silu, swish, gelu"]),
        (save_then(config_with(normalize_before=True)), ["normalize_before must be False", "True"]),
        (save_then(config_with(normalize_embedding=True)), ["normalize_embedding must be False"]),
        (save_then(config_with(add_final_layer_norm=True)), ["add_final_layer_norm must be False"]),
        (save_then(config_with(static_position_embeddings=False)), ["static_position_embeddings must be True"]),
        (save_then(config_with(model_type="bart")), ["'bart'", "MarianMT"]),
        (save_then(lambda folder: (folder / "config.json").unlink()), ["no config.json"]),
        (save_then(lambda folder: (folder / "config.json").write_text("{")), ["not a valid JSON"]),
        (save_then(lambda folder: (folder / "model.safetensors").unlink()), ["no file named model.safetensors"]),
        (save_then(lambda folder: (folder / "model.safetensors").write_text("")), ["weights of"]),
        (save_then(config_with(d_model=96)), ["weights of"]),
        (save_changed(lambda weights: weights.pop("model.decoder.layers.0.fc1.weight")), ["incomplete", "fc1.weight"]),
        (
            save_changed(lambda weights: weights.update({"model.encoder.layer_norm.weight": torch.ones(48)})),
            ["model.encoder.layer_norm.weight", "no place"],
        ),
        (save_changed(learn_positions), ["model.encoder.embed_positions.weight", "sinusoids"]),
    ],
)
def test_what_cannot_be_a_chatformer_is_refused_with_the_reason(make_marian, tmp_path, capsys, save, words):
    save(make_marian, tmp_path / "marian")
    assert main(["import", str(tmp_path / "marian"), "--output-dir", str(tmp_path / "new" / "ours")]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and "Traceback" not in error
    for word in words:
        assert word in error
    assert [path.name for path in tmp_path.iterdir()] == ["marian"]
