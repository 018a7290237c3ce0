"""`chatformer ensemble`: one model of several, which is evaluated, talked to and published like others."""

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
    to = ["--hub-model-id", "me/both", "--language", "ko", "--output-dir", str(to_send)]
    assert main(["push", str(ensemble), *to]) == 0
    sent = {path.name for path in to_send.iterdir()}
    assert {"modeling_ensemble.py", "configuration_ensemble.py", "training_record.json"} <= sent
    card = (to_send / "README.md").read_text("utf-8")
    for said in ("in each of 2 members", "an ensemble of 2 encoder-decoder", "2개의 앙상블을", "for seed in 1 2; do"):
        assert said in card
    assert "ctranslate2" not in card and "training_log" not in card
    record = json.loads((to_send / "training_record.json").read_text("utf-8"))
    assert [(member["name"], member["seed"]) for member in record["members"]] == [("one", 1), ("two", 2)]


def test_its_positions_are_drawn(ensemble, tmp_path):
    assert main(["plot", "positions", str(ensemble), "--output-file", str(tmp_path / "positions.png")]) == 0
    assert (tmp_path / "positions.png").stat().st_size


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
    assert "give its members" in refused([one, ensemble], capsys, tmp_path)
    assert "There is no folder" in refused([one, tmp_path / "nowhere"], capsys, tmp_path)
    assert "d_ff is" in refused([one, make_member("wider", d_ff=48)], capsys, tmp_path)
    other_template = tmp_path / "other"
    shutil.copytree(two, other_template)
    (other_template / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", "utf-8")
    assert "another tokenizer" in refused([one, other_template], capsys, tmp_path)
    # The same vocabulary, but pairs are joined in another order.
    other_merges = tmp_path / "merges"
    shutil.copytree(two, other_merges)
    tokenizer = json.loads((other_merges / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["merges"].reverse()
    (other_merges / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    assert "another tokenizer" in refused([one, other_merges], capsys, tmp_path)


def test_no_member_s_weights_are_rounded_and_the_longest_table_is_kept(members, tmp_path, capsys):
    half = tmp_path / "half"
    model = AutoModelForSeq2SeqLM.from_pretrained(members[1]).half()
    model.config.max_position_embeddings *= 2
    model.config.use_cache = False
    model.save_pretrained(half)
    AutoTokenizer.from_pretrained(members[1]).save_pretrained(half)
    for number, order in enumerate([(members[0], half), (half, members[0])]):
        folder = tmp_path / str(number)
        assert main(["ensemble", *map(str, order), "--output-dir", str(folder)]) == 0
        assert "no record of its data" in capsys.readouterr().err
        both = AutoModelForSeq2SeqLM.from_pretrained(folder)
        assert both.dtype == torch.float32
        assert both.config.max_position_embeddings == model.config.max_position_embeddings
        record = json.loads((folder / "training_record.json").read_text("utf-8"))
        assert record["data"]["training_sha256"] and len(record["members"]) == 2


def test_members_of_one_file_have_one_split(conversations_file, flags, train, tmp_path, capsys):
    folders = []
    for seed in (1, 2):
        folders.append(tmp_path / str(seed))
        assert train(flags(folders[-1], data=conversations_file, max_steps=2, seed=seed, split_seed=7)) == 0
    assert main(["ensemble", *map(str, folders), "--output-dir", str(tmp_path / "both")]) == 0


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
    assert "with one --split-seed" in refused([members[0], trained], capsys, tmp_path)


def test_members_from_the_hub_bring_their_records(members, trained, chatformer, hub_server, tmp_path):
    for folder, name in zip((*members, str(trained)), ("one", "two", "other"), strict=True):
        status, _, err = chatformer.run("push", folder, "--hub-model-id", name, token=hub_server.ALICE)
        assert status == 0, err
    to = ["--output-dir", str(tmp_path / "both")]
    status, _, err = chatformer.run("ensemble", "alice/one", "alice/other", *to, token=hub_server.ALICE)
    assert status == 2 and "was trained or validated on other conversations than alice/one" in err
    status, _, err = chatformer.run("ensemble", "alice/one", "alice/two", *to, token=hub_server.ALICE)
    assert status == 0 and "no record" not in err, err
    record = json.loads((tmp_path / "both" / "training_record.json").read_text("utf-8"))
    assert [member["name"] for member in record["members"]] == ["alice/one", "alice/two"]
    assert all(member["commit"] and member["seed"] for member in record["members"])
