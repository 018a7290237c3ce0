import errno
import json
import sys

import ctranslate2
import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion
from transformers import AutoTokenizer, GenerationConfig

from chatformer.cli.main import main
from chatformer.hub.formats.exporting import TORCH_FOR_ONNX
from chatformer.hub.formats.onnx_format import names, session
from chatformer.hub.formats.parity import MAX_REPLY_TOKENS, SENTENCES, encode_sentences

SHAPES = [
    {},
    {"activation": "swish", "output_bias": True, "encoder_layers": 3, "decoder_layers": 1},
    {"activation": "gelu", "d_model": 50, "num_heads": 5, "d_ff": 33},
    {"pad_token_id": 100, "decoder_start_token_id": 100},
]

needs_torch_for_onnx = pytest.mark.skipif(
    torch.__version__ < TORCH_FOR_ONNX, reason="export to ONNX needs a later torch, and says so"
)


def export(folder, target, output, *flags):
    return main(["export", str(folder), "--to", target, "--output-dir", str(output), *flags])


def sources_of(folder):
    return encode_sentences(AutoTokenizer.from_pretrained(folder), SENTENCES)


def greedy(model, source):
    reply = model.generate(
        torch.tensor([source]), generation_config=GenerationConfig(max_new_tokens=MAX_REPLY_TOKENS, do_sample=False)
    )
    return reply[0, 1:].tolist()


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@torch.no_grad()
def test_ctranslate2_scores_and_answers_as_the_model(saved, tmp_path, fields):
    folder, model = saved(**fields)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert export(folder, "ctranslate2", tmp_path / "out") == 0
    tokens = json.loads((tmp_path / "out" / "shared_vocabulary.json").read_text())
    assert len(tokens) == len(set(tokens)) == 101
    assert tokens[0] == "<pad>" and tokens[100] == "<unused_100>"
    translator = ctranslate2.Translator(str(tmp_path / "out"), intra_threads=1)
    ids = sources_of(folder)
    sources = [[tokens[row] for row in source] for source in ids]
    targets = sources[1:] + sources[:1]
    for source, target, found in zip(ids, targets, translator.score_batch(sources, targets), strict=True):
        # CTranslate2 scores the end behind the target too.
        rows = torch.tensor([*(tokens.index(token) for token in target), 2])
        start = torch.tensor([model.config.decoder_start_token_id])
        logits = model(torch.tensor([source]), decoder_input_ids=torch.cat([start, rows[:-1]])[None]).logits[0]
        expected = logits.log_softmax(-1).gather(1, rows[:, None]).flatten()
        np.testing.assert_allclose(found.log_probs, expected, rtol=0, atol=1e-4)
    options = {"beam_size": 1, "max_decoding_length": MAX_REPLY_TOKENS, "min_decoding_length": 0}
    results = translator.translate_batch(sources, **options, return_end_token=True)
    replies = [[tokens.index(token) for token in result.hypotheses[0]] for result in results]
    assert replies == [greedy(model, source) for source in ids]
    assert len({token for reply in replies for token in reply}) > 3, "Replies of one token would prove little."
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("quantization", ["float16", "int8", "int8_float32"])
def test_ctranslate2_in_fewer_bits(saved, tmp_path, capsys, quantization):
    folder, _ = saved()
    assert export(folder, "ctranslate2", tmp_path / "whole") == 0
    capsys.readouterr()
    assert export(folder, "ctranslate2", tmp_path / "out", "--quantization", quantization) == 0
    said = capsys.readouterr().out
    assert "is allowed" in said and "of 12 greedy replies" in said
    whole, small = ((tmp_path / name / "model.bin").stat().st_size for name in ("whole", "out"))
    assert small < 0.8 * whole
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["converted_from"] == str(folder)
    assert record["quantization"] == quantization
    assert record["comparison"]["largest_difference"] < record["comparison"]["allowed_difference"]


def test_quantization_leaves_the_model_as_it_is(make_model, tokenizer, tmp_path):
    from chatformer.hub.formats.ctranslate2_format import write_ctranslate2

    model = make_model(output_bias=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_ctranslate2(model, tokenizer, tmp_path, quantization="int8")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("fields", SHAPES[1:3], ids=str)
@torch.no_grad()
@needs_torch_for_onnx
def test_onnx_answers_as_the_model(saved, tmp_path, fields):
    folder, model = saved(**fields)
    assert export(folder, "onnx", tmp_path / "out") == 0
    encoder, decoder = (session(tmp_path / "out" / f"{name}.onnx") for name in ("encoder", "decoder"))
    # Other sizes than those of the export, padding on either side, several new tokens after none and after some.
    source = torch.tensor([[5, 6, 7, 8, 9, 10, 2], [0, 0, 11, 2, 0, 0, 0], [0, 0, 0, 0, 12, 13, 2]])
    mask = (source != 0).long()
    target = torch.randint(3, 101, (3, 9), generator=torch.Generator().manual_seed(0))
    expected = model(source, mask, decoder_input_ids=target).logits
    num_layers, heads = model.config.decoder_layers, model.config.num_heads
    memory = encoder.run(None, {"input_ids": source.numpy(), "attention_mask": mask.numpy()})
    past = [np.zeros((3, heads, 0, model.config.d_model // heads), dtype=np.float32)] * (2 * num_layers)
    found = []
    for new in target.split([2, 1, 6], dim=1):
        inputs = {"input_ids": new.numpy(), "attention_mask": mask.numpy()}
        inputs |= dict(zip(names("memory", num_layers), memory, strict=True))
        inputs |= dict(zip(names("past", num_layers), past, strict=True))
        logits, *past = decoder.run(None, inputs)
        found.append(torch.from_numpy(logits))
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=1e-4)


def test_sentences_of_a_file(saved, tmp_path, capsys):
    folder, _ = saved()
    (tmp_path / "lines.txt").write_text("one\n\ntwo\nthree\n")
    assert export(folder, "marian", tmp_path / "out", "--sentences", str(tmp_path / "lines.txt")) == 0
    assert "3 of 3 greedy replies" in capsys.readouterr().out


def refuse(folder, output, capsys, *flags, target="ctranslate2"):
    """Return what an export says that fails, having seen that it leaves nothing."""
    before = sorted(folder.parent.rglob("*"))
    assert export(folder, target, output, *flags) == 2
    assert sorted(folder.parent.rglob("*")) == before
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_bad_input_gets_a_sentence_and_leaves_nothing(saved, make_model, make_marian, tmp_path, capsys):
    folder, _ = saved()
    out = tmp_path / "some" / "where" / "out"
    assert "no config.json" in refuse(tmp_path, out, capsys)
    assert "There is no folder" in refuse(tmp_path / "nowhere" / "at" / "all", out, capsys)
    (tmp_path / "data.csv").write_text("a,b")
    assert "data.csv is a file. Give the folder of a model" in refuse(tmp_path / "data.csv", out, capsys)
    assert "--quantization int8" in refuse(folder, out, capsys, "--quantization", "int8", target="marian")
    assert "is not empty" in refuse(folder, folder, capsys)
    assert "is a file" in refuse(folder, folder / "config.json", capsys)
    assert "could not be read" in refuse(folder, out, capsys, "--sentences", str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    assert "has no sentence" in refuse(folder, out, capsys, "--sentences", str(tmp_path / "empty.txt"))
    assert "config.json is a file" in refuse(folder, folder / "config.json" / "below", capsys)
    make_marian().save_pretrained(tmp_path / "marian")
    assert "chatformer import" in refuse(tmp_path / "marian", out, capsys)
    make_model().save_pretrained(tmp_path / "mute")
    assert "no tokenizer" in refuse(tmp_path / "mute", out, capsys)
    (tmp_path / "mute" / "tokenizer.json").write_text("{}")
    assert "no tokenizer" in refuse(tmp_path / "mute", out, capsys)


def test_what_a_format_cannot_say_is_refused(saved, make_model, tokenizer, tmp_path, capsys):
    folder, _ = saved(layer_norm_eps=1e-6)
    assert "layer_norm_eps must be 1e-05" in refuse(folder, tmp_path / "out", capsys, target="marian")
    folder, _ = saved(eos_token_id=[2, 3])
    assert "eos_token_id must be one token" in refuse(folder, tmp_path / "out", capsys)
    folder, _ = saved(vocab_size=80)
    assert "does not match its model: it has a token 93" in refuse(folder, tmp_path / "out", capsys)
    folder, _ = saved(tie_word_embeddings=False)
    assert "tie_word_embeddings=False" in refuse(folder, tmp_path / "out", capsys)


def test_an_earlier_torch_cannot_write_onnx(saved, tmp_path, capsys, monkeypatch):
    folder, _ = saved()
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.0+cpu"))
    message = f"--to onnx needs torch {TORCH_FOR_ONNX} or later, and this is 2.9.0+cpu."
    assert message in refuse(folder, tmp_path / "out", capsys, target="onnx")


def test_a_missing_package_names_the_extra(saved, tmp_path, capsys, monkeypatch):
    folder, _ = saved()
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert "pip install 'chatformer[ctranslate2]'" in refuse(folder, tmp_path / "out", capsys)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'chatformer[onnx]'" in refuse(folder, tmp_path / "out", capsys, target="onnx")


@pytest.mark.parametrize("target", ["marian", "ctranslate2"])
def test_a_full_disk_leaves_nothing(saved, tmp_path, capsys, monkeypatch, target):
    folder, _ = saved()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    # The last thing that is written: everything else stands by then.
    monkeypatch.setattr("pathlib.Path.write_text", full)
    error = refuse(folder, tmp_path / "out", capsys, target=target)
    assert "could not be written, and nothing is left" in error and "No space left" in error


@pytest.mark.parametrize(
    ("target", "broken", "change"),
    [
        ("marian", "chatformer.hub.formats.marian_format.halved_order", lambda d_model: torch.arange(d_model)),
        ("ctranslate2", "chatformer.hub.formats.ctranslate2_format.sinusoids", lambda *shape: torch.zeros(shape)),
        pytest.param(
            *("onnx", "chatformer.hub.formats.onnx_format.sinusoids", lambda *shape: torch.zeros(shape)),
            marks=needs_torch_for_onnx,
        ),
    ],
)
def test_an_export_that_answers_otherwise_fails_and_leaves_nothing(
    saved, tmp_path, capsys, monkeypatch, target, broken, change
):
    folder, _ = saved()
    monkeypatch.setattr(broken, change)
    assert "does not answer as its source" in refuse(folder, tmp_path / "out", capsys, target=target)


def test_weights_that_lack_a_part_are_refused(saved, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder, _ = saved()
    weights = load_file(folder / "model.safetensors")
    del weights["model.encoder.layers.0.feed_forward.inner.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "incomplete: model.encoder.layers.0.feed_forward.inner.bias" in refuse(folder, tmp_path / "out", capsys)


def test_an_output_bias_is_kept_when_the_vocabulary_grows(make_model):
    model = make_model(output_bias=True)
    source, target = torch.tensor([[5, 6, 2]]), torch.tensor([[1, 7, 8]])
    with torch.no_grad():
        before = model(source, decoder_input_ids=target).logits
        model.resize_token_embeddings(110)
        after = model(source, decoder_input_ids=target).logits
    assert after.shape[-1] == model.config.vocab_size == model.lm_head.bias.shape[0] == 110
    assert model.lm_head.weight is model.model.shared.weight
    torch.testing.assert_close(after[..., :101], before, rtol=0, atol=1e-5)
