"""A model with sparse self-attention goes through the rooms as one with full attention does."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from chatformer.cli.main import main
from chatformer.hub.bundle import gather
from chatformer.hub.card import write_card
from chatformer.storage.run_folder import Records
from chatformer.training import run as loop

STRIDED = {"self_attention": "strided", "stride": 3, "encoder_layers": 2, "decoder_layers": 2}

NOT_RECURRENT = dict.fromkeys(("num_heads", "encoder_layers", "decoder_layers", "embedding_initializer_range"))


@pytest.fixture(scope="module")
def folder(train, flags, tmp_path_factory):
    """Return the folder of a sparse model that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained") / "bot"
    assert train(flags(folder, **STRIDED, max_steps=60, eval_steps=30)) == 0
    return folder


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text("utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_it_learns_and_is_saved_as_what_it_is(folder):
    losses = losses_of(folder)
    assert losses[-1] < losses[0] / 2
    config = AutoModelForSeq2SeqLM.from_pretrained(folder).config
    assert (config.self_attention, config.stride, config.summary_size) == ("strided", 3, None)
    assert "sparse_attention.py" in gather(str(folder))
    card = write_card(Records.read(folder), [], repo_id="a/bot", revision="main", languages=["ko"], license=None)
    assert "| self-attention | sparse, strided, with a stride of 3 |" in card.decode()


def test_an_interrupted_run_that_is_resumed_ends_with_the_same_bits(train, flags, tmp_path, monkeypatch, capsys):
    plan = {"self_attention": "fixed", "max_steps": 16, "eval_steps": 8, "save_steps": 4, "dropout": 0.2}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(flags(whole, **plan)) == 0
    take_step = loop.Run.take_step

    def stop(run):
        if run.progress.step == 9:
            raise SystemExit
        take_step(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "take_step", stop)
        with pytest.raises(SystemExit):
            train(flags(stopped, **plan))
    capsys.readouterr()
    assert train([*flags(stopped, **plan | {"self_attention": "strided"}), "--resume"]) == 2
    assert "self_attention: fixed before, strided now: the weights have learnt" in capsys.readouterr().err
    # With the flags of the beginning too: the stride was planned, from --max-source-tokens 40.
    assert train([*flags(stopped, **plan), "--resume"]) == 0
    config = json.loads((stopped / "config.json").read_text("utf-8"))
    assert (config["self_attention"], config["stride"], config["summary_size"]) == ("fixed", 7, 1)
    one, other = load_file(whole / "model.safetensors"), load_file(stopped / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert losses_of(whole) == losses_of(stopped)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 8}, "--stride is for --self-attention strided or fixed, but it is full."),
        (
            {"self_attention": "strided", "summary_size": 2},
            "--summary-size is for --self-attention fixed, but it is strided.",
        ),
        ({"self_attention": "fixed", "stride": 2, "summary_size": 3}, "summary_size (3) must be at most stride (2)."),
        ({"self_attention": "fixed", "stride": 0}, "--stride must be at least 1, but it is 0."),
        (
            {"self_attention": "strided", "architecture": "bahdanau", **NOT_RECURRENT},
            "--self-attention is for --architecture transformer, but the architecture is bahdanau.",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(train, flags, tmp_path, capsys, changes, message):
    assert train(flags(tmp_path / "run", **changes)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("target", ["marian", "ctranslate2", "onnx"])
def test_other_formats_refuse_it_by_name(folder, target, tmp_path, capsys):
    assert main(["export", str(folder), "--to", target, "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "has sparse self-attention (self_attention 'strided')" in error and f"--to {target} cannot express" in error
    assert not (tmp_path / "out").exists()


def test_its_masks_are_drawn(folder, tmp_path):
    assert main(["plot", "mask", str(folder), "--text", "따라 해 2 4", "--output-file", str(tmp_path / "m.svg")]) == 0
    assert (tmp_path / "m.svg").stat().st_size > 1000


def test_replies_are_those_of_the_plain_definition(folder, monkeypatch):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    source = torch.randint(5, model.config.vocab_size, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(source)
    mask[0, :6] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "min_new_tokens": 12, "num_beams": 3}
    found = model.generate(source, **options)
    static = model.generate(source, cache_implementation="static", **options)
    assisted = [model.generate(source[1:], max_new_tokens=12, prompt_lookup_num_tokens=n) for n in (None, 3)]
    shown = model.generate(source, output_attentions=True, return_dict_in_generate=True, **options)
    assert torch.equal(found, static) and torch.equal(found, shown.sequences)
    assert torch.equal(*assisted)
