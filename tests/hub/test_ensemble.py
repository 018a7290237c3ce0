"""`chatformer ensemble`: one model of several, which is evaluated, talked to, published and exported like others."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from chatformer import EnsembleForConditionalGeneration
from chatformer.cli.main import main
from chatformer.conversation import encode_conversation


@pytest.fixture(scope="module")
def files(conversations_file, tmp_path_factory):
    """The flags of data that does not depend on the seed."""
    folder = tmp_path_factory.mktemp("split")
    lines = conversations_file.read_text("utf-8").splitlines(keepends=True)
    for name, part in {"training": lines[10:], "validation": lines[:10]}.items():
        (folder / f"{name}.jsonl").write_text("".join(part), "utf-8")
    return {"data": folder / "training.jsonl", "validation_data": folder / "validation.jsonl"}


@pytest.fixture(scope="module")
def make_member(files, flags, train, tmp_path_factory):
    def make(name, **changes):
        folder = tmp_path_factory.mktemp("members") / name
        arguments = flags(folder, validation_fraction=0, max_steps=20, **files, **changes)
        position = arguments.index("--validation-fraction")
        assert train(arguments[:position] + arguments[position + 2 :]) == 0
        return str(folder)

    return make


@pytest.fixture(scope="module")
def members(make_member):
    return [make_member("one", seed=1), make_member("two", seed=2)]


@pytest.fixture(scope="module")
def ensemble(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "both"
    assert main(["ensemble", *members, "--output-dir", str(folder)]) == 0
    return folder


def test_its_logits_are_the_mean_of_its_members(ensemble, members):
    model = AutoModelForSeq2SeqLM.from_pretrained(ensemble)
    assert isinstance(model, EnsembleForConditionalGeneration)
    tokenizer = AutoTokenizer.from_pretrained(ensemble)
    source = torch.tensor([encode_conversation(tokenizer, [{"role": "user", "content": "따라 해 1 2"}])])
    target = torch.tensor([tokenizer("네, 1 2")["input_ids"]])
    logits = [
        AutoModelForSeq2SeqLM.from_pretrained(folder)(source, labels=target).logits.detach() for folder in members
    ]
    assert not torch.allclose(*logits, atol=0.1)
    torch.testing.assert_close(model(source, labels=target).logits.detach(), sum(logits) / 2, rtol=0, atol=2e-5)


def test_it_is_evaluated_as_its_members_are(ensemble, members, files, tmp_path, capsys):
    figures = {}
    for folder in (*members, ensemble):
        output = tmp_path / "evaluation.json"
        data = ["--data", str(files["validation_data"]), "--output-file", str(output)]
        assert main(["evaluate", str(folder), *data, "--num-beams", "2"]) == 0
        evaluation = json.loads(output.read_text("utf-8"))
        figures[folder] = evaluation["figures"]["all"]
        # The nearest training question's answers need the data that the members learnt.
        assert evaluation["baselines"]
    # A geometric mean of probabilities, normalised, is at least the mean of their logarithms.
    losses = [figures[folder]["loss"] for folder in members]
    assert figures[ensemble]["loss"] < sum(losses) / 2


def test_it_talks_and_its_files_travel(ensemble, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("따라 해 1 2\n고마워\n", "utf-8")
    assert main(["generate", str(ensemble), "--data", str(tmp_path / "lines.txt")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    to_send = tmp_path / "bundle"
    assert main(["push", str(ensemble), "--hub-model-id", "me/both", "--output-dir", str(to_send)]) == 0
    sent = {path.name for path in to_send.iterdir()}
    assert {"modeling_ensemble.py", "configuration_ensemble.py", "training_record.json"} <= sent
    assert "in each of 2 members" in (to_send / "README.md").read_text("utf-8")
    record = json.loads((to_send / "training_record.json").read_text("utf-8"))
    assert [member["name"] for member in record["members"]] == ["one", "two"]


def test_the_doctor_finds_nothing_wrong_with_its_parts(ensemble, capsys):
    # The status says whether it has learnt something.
    assert main(["doctor", str(ensemble)]) in (0, 1)
    said = " ".join(capsys.readouterr().out.split())
    for finding in (
        "The embeddings are tied",
        "The tokenizer fits",
        "The future cannot be seen",
        "Padding is harmless",
    ):
        assert f"✓ {finding}" in said


@pytest.mark.parametrize("format", ["marian", "ctranslate2", "onnx"])
def test_it_cannot_be_exported(ensemble, tmp_path, capsys, format):
    assert main(["export", str(ensemble), "--to", format, "--output-dir", str(tmp_path / "out")]) == 2
    assert "is an ensemble of 2 Transformers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def refused(arguments, capsys, tmp_path):
    assert main(["ensemble", *map(str, arguments), "--output-dir", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err


def test_members_that_do_not_fit_are_refused(members, ensemble, make_member, capsys, tmp_path):
    one, two = members
    assert "at least two models" in refused([one], capsys, tmp_path)
    assert "same weights" in refused([one, two, one], capsys, tmp_path)
    assert "must be Transformers" in refused([one, ensemble], capsys, tmp_path)
    assert "There is no folder" in refused([one, tmp_path / "nowhere"], capsys, tmp_path)
    assert "d_ff is" in refused([one, make_member("wider", d_ff=48)], capsys, tmp_path)
    other_template = tmp_path / "other"
    shutil.copytree(two, other_template)
    (other_template / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", "utf-8")
    assert "another tokenizer" in refused([one, other_template], capsys, tmp_path)


@pytest.mark.parametrize("fields", [{"num_members": 1001}, {"decoder_layers": 600}, {"max_position_embeddings": 2**22}])
def test_a_stranger_s_ensemble_takes_neither_long_nor_much_memory(ensemble, capsys, tmp_path, fields):
    folder = tmp_path / "large"
    shutil.copytree(ensemble, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | fields), "utf-8")
    assert main(["evaluate", str(folder)]) == 2
    assert "over all" in capsys.readouterr().err


def test_a_member_must_not_have_learnt_what_another_was_judged_by(
    members, trained, conversations_file, capsys, tmp_path
):
    # The seed has split the same conversations in another way.
    assert "other data" in refused([members[0], trained], capsys, tmp_path)
