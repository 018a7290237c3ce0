"""A recurrent model goes through every room as a Transformer does, from the training to the Hub."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from chatformer.cli.main import main
from chatformer.hub.bundle import code_files, gather
from chatformer.training import run as loop

# Of the flags' tiny Transformer: sizes that a recurrent model does not have, and small embeddings, which hold it up.
NOT_RECURRENT = dict.fromkeys(("num_heads", "encoder_layers", "decoder_layers", "embedding_initializer_range"))
PLAN = {**NOT_RECURRENT, "max_steps": 20, "eval_steps": 10, "save_steps": 5, "dropout": 0.2}
DIGITS = [f"따라 해 {first} {second}" for first in range(3) for second in range(3)]


@pytest.fixture(scope="module", params=["bahdanau", "seq2seq"])
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def folder(architecture, train, flags, tmp_path_factory):
    """Return the folder of a recurrent model that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained") / "bot"
    assert train(flags(folder, architecture=architecture, **NOT_RECURRENT, max_steps=120, eval_steps=60)) == 0
    return folder


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text("utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_it_learns_and_is_saved_as_what_it_is(folder, architecture):
    losses = losses_of(folder)
    assert losses[-1] < losses[0] / 2
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert type(model).__name__ == "BahdanauForConditionalGeneration"
    assert model.config.attention == (architecture == "bahdanau")
    assert model.config.d_model == model.config.d_embedding == 32
    assert {path.name for path in folder.glob("*.py")} == set(code_files("bahdanau"))


def test_an_interrupted_run_that_is_resumed_ends_with_the_same_bits(architecture, train, flags, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(flags(whole, architecture=architecture, **PLAN)) == 0
    take_step = loop.Run.take_step

    def stop(run):
        if run.progress.step == 11:
            raise SystemExit
        take_step(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "take_step", stop)
        with pytest.raises(SystemExit):
            train(flags(stopped, architecture=architecture, **PLAN))
    assert train(["--output-dir", stopped, "--resume"]) == 0
    one, other = load_file(whole / "model.safetensors"), load_file(stopped / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert losses_of(whole) == losses_of(stopped)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "bahdanau"},
            "--num-heads is for --architecture transformer, but the architecture is bahdanau",
        ),
        ({"d_embedding": 16}, "--d-embedding is for --architecture bahdanau or seq2seq"),
        (
            {"architecture": "seq2seq", **NOT_RECURRENT, "d_attention": 8},
            "--d-attention is for --architecture bahdanau",
        ),
        ({"architecture": "seq2seq", **NOT_RECURRENT, "size": "smal"}, "Did you mean 'small'?"),
    ],
)
def test_what_an_architecture_does_not_have_is_refused(train, flags, tmp_path, capsys, changes, message):
    assert train(flags(tmp_path / "run", **changes)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_layers_that_it_lacks_are_not_compiled(train, flags, tmp_path, capsys):
    arguments = flags(tmp_path / "run", architecture="bahdanau", **NOT_RECURRENT)
    assert train([*arguments, "--torch-compile"]) == 2
    assert "--torch-compile compiles the Transformer's layers" in capsys.readouterr().err


def test_a_plan_chooses_among_the_sizes_of_the_architecture(train, conversations_file, capsys):
    assert train(["--data", conversations_file, "--architecture", "bahdanau", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "bahdanau tiny (0." in captured.err


def test_the_pipeline_and_generate_reply(folder, tmp_path):
    chat = pipeline("seq2seq-chat", model=str(folder), trust_remote_code=True)
    assert len(chat(DIGITS, batch_size=3)) == len(DIGITS)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), chat.model
    inputs = tokenizer(DIGITS, return_tensors="pt", padding=True)
    replies = model.generate(**inputs, num_beams=3, num_return_sequences=2)
    assert len(replies) == 2 * len(DIGITS)
    assert all(tokenizer.batch_decode(replies, skip_special_tokens=True))


def test_every_command_takes_it(folder, tmp_path, capsys, monkeypatch):
    assert main(["evaluate", str(folder)]) == 0
    assert json.loads((folder / "evaluation.json").read_text("utf-8"))["figures"]
    # What it finds is its status.
    assert main(["doctor", str(folder)]) in (0, 1)
    (tmp_path / "lines.txt").write_text("\n".join(DIGITS), "utf-8")
    assert (
        main(
            [
                "generate",
                str(folder),
                "--data",
                str(tmp_path / "lines.txt"),
                "--output-file",
                str(tmp_path / "replies.txt"),
            ]
        )
        == 0
    )
    assert len((tmp_path / "replies.txt").read_text("utf-8").splitlines()) == len(DIGITS)
    assert main(["space", str(folder), "--output-dir", str(tmp_path / "space")]) == 0
    assert "small recurrent network" in (tmp_path / "space" / "README.md").read_text("utf-8")


def test_it_can_be_talked_to(folder, environment):
    process = subprocess.run(
        [sys.executable, "-m", "chatformer.cli.main", "chat", str(folder)],
        input=f"{DIGITS[0]}\n",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip()


def test_what_travels_is_its_own_code_and_a_card_that_names_it(folder, architecture):
    from chatformer.hub.card import write_card
    from chatformer.storage.run_folder import Records

    bundle = gather(str(folder))
    assert {name for name in bundle if name.endswith(".py")} == set(code_files("bahdanau"))
    card = write_card(
        Records.read(folder), [], repo_id="a/bot", revision="main", languages=["en", "ko"], license=None
    ).decode()
    assert "arxiv:1409.0473" in card and "1706.03762" not in card and "ctranslate2" not in card
    assert ("additive attention" in card) == (architecture == "bahdanau")


@pytest.mark.parametrize("target", ["marian", "ctranslate2", "onnx"])
def test_other_formats_refuse_it_by_name(folder, target, tmp_path, capsys):
    assert main(["export", str(folder), "--to", target, "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "is a recurrent model" in error and f"--to {target} cannot express" in error
    assert not (tmp_path / "out").exists()


def test_numbers_that_would_fill_the_memory_are_refused(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
    content = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps(content | {"d_model": 10**9}), "utf-8")
    assert main(["evaluate", str(copy)]) == 2
    assert "d_model must be at most 65536, but it is 1000000000" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["attention"], ["attention", "--attention", "cross"], ["mask"]], ids=" ".join)
def test_a_picture_that_it_does_not_have_is_refused_in_a_sentence_that_helps(
    folder, architecture, arguments, tmp_path, capsys
):
    picture, *options = arguments
    file = tmp_path / "picture.png"
    status = main(["plot", picture, str(folder), *options, "--text", "따라 해 2 4", "--output-file", str(file)])
    error = capsys.readouterr().err
    if architecture == "bahdanau" and picture == "attention":
        # The default is the attention that it has.
        assert status == 0 and file.exists()
        return
    assert status == 2 and not file.exists()
    assert ("has no masks to show" if picture == "mask" else "recurrent model, without attention") in error
