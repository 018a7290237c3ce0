"""The model card: its metadata, its figures and samples, and how it tells a person's edit from its own text."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import load_file, save_file
from transformers import pipeline

from chatformer.hub.card import METRICS, write_card
from chatformer.hub.errors import HubError
from chatformer.hub.known_data import languages_of, license_of
from chatformer.hub.samples import MAX_SAMPLES, questions_of, sample_conversations
from chatformer.hub.seal import is_ours, own_card, pinned_commit
from chatformer.storage.run_folder import Records

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SONGYS = "https://raw.githubusercontent.com/songys/Chatbot_data/master/ChatbotData.csv"


@pytest.fixture
def records(trained):
    return Records.read(trained)


def card_of(records, samples=(("안녕", "네"),), **changes):
    options = {"repo_id": "alice/bot", "revision": "main", "languages": (), "license": None}
    return write_card(records, samples, **{**options, **changes}).decode()


def from_data(records, *sources):
    return dataclasses.replace(
        records, record={**records.record, "data": {**records.record["data"], "sources": sources}}
    )


def said_in(records, text):
    return dataclasses.replace(records, log=[{"step": 1, "samples": [{"source": text, "reply": text}]}])


FIGURES = {
    "loss": 2.0,
    "perplexity": 7.4,
    "bits_per_character": 1.5,
    "source_gain": 0.25,
    "bleu": None,
    "chrf": 40.5,
    "exact_match": 12.5,
    "distinct_replies": 90,
}
EVALUATION = {
    "exchanges": {"all": 30, "seen": 20, "unseen": 10},
    "figures": {"all": FIGURES, "seen": {**FIGURES, "chrf": 55.25}, "unseen": {**FIGURES, "chrf": 11.125}},
    "settings": {"data": ["/home/me/test.csv"]},
}


def test_the_metadata_is_what_the_hub_reads(records, hub_server):
    text = card_of(from_data(records, "user/talks"), languages=("ko", "en"), license="mit", revision=COMMIT)
    assert hub_server.card_errors(text, "model") == []
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "mit")
    assert (data.language, data.datasets) == (["ko", "en"], ["user/talks"])
    assert {"chatformer", "conversational"} < set(data.tags)


def test_the_checks_of_the_local_hub_see_what_is_wrong(records, hub_server):
    text = card_of(records, languages=("ko",), license="mit")
    assert hub_server.card_errors(text, "model") == []
    for right, wrong in [
        ("license: mit", "license: mine"),
        ("- ko", "- Korean"),
        ("      type: text-generation\n", ""),
        ("    - type: loss\n      value: ", "    - type: loss\n      value: about "),
    ]:
        assert right in text
        assert len(hub_server.card_errors(text.replace(right, wrong), "model")) >= 1, wrong


def test_figures_of_seen_and_unseen_stand_apart(records, hub_server):
    text = card_of(dataclasses.replace(records, evaluation=EVALUATION))
    assert hub_server.card_errors(text, "model") == []
    results = ModelCard(text).data.eval_results
    chrf = {result.dataset_split: result.metric_value for result in results if result.metric_type == "chrf"}
    assert chrf == {"all": 40.5, "seen": 55.25, "unseen": 11.125}
    assert {result.dataset_name.split(":")[0] for result in results} == {"test.csv"}
    assert not [result for result in results if result.metric_type == "bleu"]
    row = next(line for line in text.splitlines() if line.startswith("| chrF |"))
    assert row == "| chrF | 40.5 | 55.25 | 11.12 |"
    titles = ["All (30)", "Answers that are in the training data (20)", "Answers that the training data lacks (10)"]
    assert f"| | {' | '.join(titles)} |" in text


def test_a_group_that_is_all_of_them_has_no_column_of_its_own(records):
    unseen = {"all": FIGURES, "seen": None, "unseen": FIGURES}
    evaluation = {**EVALUATION, "exchanges": {"all": 30, "seen": 0, "unseen": 30}, "figures": unseen}
    text = card_of(dataclasses.replace(records, evaluation=evaluation))
    assert "| | All (30) |\n" in text and "lacks" not in text


@pytest.mark.parametrize(("replies", "is_told"), [((30, 20, 10), False), ((12, 8, 4), True)])
def test_figures_of_fewer_replies_say_so(records, hub_server, replies, is_told):
    figures = {
        name: {**each, "num_replies": number}
        for (name, each), number in zip(EVALUATION["figures"].items(), replies, strict=True)
    }
    text = card_of(dataclasses.replace(records, evaluation={**EVALUATION, "figures": figures}))
    assert hub_server.card_errors(text, "model") == []
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    told = "| Replies, which the figures below are of | 12 | 8 | 4 |"
    assert (told in lines) is is_told
    names = {result.metric_type: result.metric_name for result in ModelCard(text).data.eval_results[:4]}
    assert names["loss"] == "Loss, nats per token"
    assert names["chrf"] == ("chrF, of 12 replies" if is_told else "chrF")
    if is_told:
        assert lines[lines.index(told) + 1].startswith("| chrF |")


def test_from_training_by_way_of_evaluation_to_the_card(chatformer, hub, hub_server, trained, conversations, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "private place" / "model")
    data = tmp_path / "private place" / "talks.jsonl"
    unseen = [{"messages": [{"role": role, "content": "처음 보는 말"} for role in ("user", "assistant")]}]
    data.write_text("".join(json.dumps(made) + "\n" for made in [*conversations[:9], *unseen]), "utf-8")
    status, _, err = chatformer.run("evaluate", folder, "--data", data)
    assert status == 0, err
    status, _, err = chatformer.run("push", folder, "--hub-model-id", "evaluated", token=hub_server.ALICE)
    assert status == 0, err
    # The stock client has the Hub check the metadata, of both commits.
    assert [status for *_, status in hub.asked("POST", "/api/validate-yaml")][-2:] == [200, 200]
    card = hub.content("models", "alice/evaluated", "README.md").decode()

    evaluation = json.loads((folder / "evaluation.json").read_text("utf-8"))
    assert evaluation["exchanges"]["seen"] > 1 <= evaluation["exchanges"]["unseen"]
    results = ModelCard(card).data.eval_results
    for split in ("all", "seen", "unseen"):
        of_split = {result.metric_type: result.metric_value for result in results if result.dataset_split == split}
        figures = {name: evaluation["figures"][split][name] for name in METRICS}
        expected = {name: round(value, 4) for name, value in figures.items() if value is not None}
        assert of_split == expected and {"bits_per_character", "chrf", "exact_match"} <= set(expected)
    assert ModelCard(card).data.language == ["ko"] and "## 한국어 안내" in card
    assert "Measured by `chatformer evaluate` on talks.jsonl; " in card
    nearest, frequent = (evaluation["baselines"][name]["all"]["chrf"] for name in evaluation["baselines"])
    assert (
        f"the answer to the nearest training question {nearest:.4g}, the most frequent answer {frequent:.4g}." in card
    )
    for row in re.findall(r"^\| (?:Loss|Bits|BLEU|chrF|Exact|글자당|정답).*", card, re.MULTILINE):
        assert re.fullmatch(r"\|[^|]+\|( \d+(\.\d+)? \|| -\d+(\.\d+)? \||  \|){3}", row), row
    for wrong in ("More Information Needed", "None", "Undefined", "private place", "/tmp/", "처음 보는"):
        assert wrong not in card, wrong


def test_an_evaluation_of_other_weights_is_left_out(chatformer, trained, conversations_file, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "model")
    status, _, err = chatformer.run("evaluate", folder, "--data", conversations_file, "--max-replies", 2)
    assert status == 0, err
    file = folder / "evaluation.json"
    evaluation = json.loads(file.read_text("utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    assert evaluation["weights_sha256"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}

    def pushed(name):
        arguments = ["push", folder, "--hub-model-id", "bot", "--output-dir", tmp_path / name]
        status, _, err = chatformer.run(*arguments, token=None)
        assert status == 0, err
        card = (tmp_path / name / "README.md").read_text("utf-8")
        return "Measured by `chatformer evaluate`" in card, "was measured on other weights" in err

    assert pushed("fits") == (True, False)
    learnt = {name: tensor * 1.01 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(learnt, folder / "model.safetensors", {"format": "pt"})
    assert pushed("has learnt since") == (False, True)
    # Of an evaluation that does not say on what, nothing is known.
    del evaluation["weights_sha256"]
    file.write_text(json.dumps(evaluation), "utf-8")
    assert pushed("does not say") == (True, False)


def test_the_card_says_how_the_replies_were_found(records):
    found = {**EVALUATION, "settings": {"data": [], "num_beams": 4}}
    text = card_of(dataclasses.replace(records, evaluation=found))
    assert "Replies are found with 4 beams." in text and "on conversations that were kept out of training;" in text
    assert "Replies are greedy." in card_of(records)


def test_figures_are_written_without_exponents_and_negative_zeros(records):
    small = {**FIGURES, "loss": 3.8e-6, "source_gain": -1.2e-5, "chrf": 1e-4}
    text = card_of(dataclasses.replace(records, evaluation={**EVALUATION, "figures": {"all": small}}))
    assert "| Loss, nats per token | 0 |\n" in text and "| chrF | 0.0001 |\n" in text
    assert "| Bits per character saved by listening | 0 |\n" in text
    assert "value: -0" not in text and {result.metric_value for result in ModelCard(text).data.eval_results} > {
        0,
        0.0001,
    }


def test_a_converted_model_is_not_said_to_be_trained_here(records):
    conversion = {"converted_from": "Helsinki-NLP/opus-mt-en-de", "commit": COMMIT, "format": "marian"}
    bare = dataclasses.replace(records, settings={}, record={}, log=[], conversion=conversion)
    text = card_of(bare, languages=("ko",))
    assert f"converted by Chatformer from\nthe marian model `Helsinki-NLP/opus-mt-en-de` at commit `{COMMIT}`." in text
    assert "random weights" not in text and "무작위" not in text
    untied = dataclasses.replace(bare, config={**records.config, "tie_word_embeddings": False})
    assert "one embedding for" in text and "several embeddings for" in card_of(untied)


def test_without_an_evaluation_the_training_s_own_figures_stand_there(records):
    results = ModelCard(card_of(records)).data.eval_results
    assert {result.dataset_split for result in results} == {"validation"}
    figures = {result.metric_type: result.metric_value for result in results}
    assert figures["loss"] == pytest.approx(records.record["best"]["eval_loss"], abs=1e-4)
    assert figures["exact_match"] == pytest.approx(records.record["best"]["eval_exact_match"], abs=1e-4)


def test_a_model_without_any_record_has_a_card_too(records, hub_server):
    bare = dataclasses.replace(records, settings={}, record={}, log=[], evaluation={}, has_curves=False)
    text = card_of(bare, samples=())
    assert hub_server.card_errors(text, "model") == []
    assert "What it was trained on is not recorded." in text and "stated no licence" in text
    assert "training_curves.png" not in text and "How it was trained" not in text


@pytest.mark.parametrize("languages", [(), ("en",), ("ko",), ("ko", "en")])
def test_the_card_is_whole_in_every_language(records, languages):
    text = card_of(dataclasses.replace(records, evaluation=EVALUATION), languages=languages)
    assert ("## 한국어 안내" in text) == ("ko" in languages)
    for heading in ("What it is for", "What it says", "How to load it", "The model", "The data", "How it was trained"):
        assert f"\n## {heading}" in text
    for heading in ("How good it is", "Limits", "How to cite"):
        assert f"\n## {heading}" in text
    assert "![Loss, replies and learning rate over the steps](training_curves.png)" in text
    assert f"| parameters | {records.record['overview']['parameters']:,} |" in text
    assert "@inproceedings{vaswani2017attention" in text and "author = {{The Chatformer authors}}" in text
    for wrong in ("More Information Needed", "None", "Undefined", "{%", "}}\n{{", "\n\n\n"):
        assert wrong not in text, wrong
    # Tables and code end before the next heading, or Markdown would run them together.
    assert not re.search(r"\|\n##", text) and text.count("```") % 2 == 0


def test_three_ways_to_load_it(records):
    text = card_of(records, revision=COMMIT)
    assert "chatformer chat alice/bot" in text
    assert "chatformer export alice/bot --to ctranslate2 --output-dir bot-ct2" in text
    assert f'revision="{COMMIT}"' in text and "trust_remote_code=True" in text
    assert "the revision pins them" in text
    assert "replace `main` by the commit that you have read" in card_of(records)


def test_the_samples_are_what_the_model_says(trained, records):
    samples = sample_conversations(str(trained), questions_of(records), ("ko",))
    questions = [question for question, _ in samples]
    assert questions == questions_of(records) and 2 < len(questions) <= MAX_SAMPLES
    last = [line["samples"] for line in records.log if "samples" in line][-1]
    assert questions[0] == last[0]["source"]
    torch.set_num_threads(1)
    chat = pipeline("seq2seq-chat", model=str(trained), trust_remote_code=True, device="cpu")
    for question, reply in samples:
        assert chat(question, do_sample=False, num_beams=1)["generated_text"] == reply
    assert sample_conversations(str(trained), [], ("ko",))[0][0] == "안녕하세요!"


def test_what_is_said_cannot_break_the_card(records):
    text = card_of(records, samples=[("a | b\n## c <b>", 'say "hi"\\'), ("```", "")])
    assert '| a \\| b ## c &lt;b> | say "hi"\\ |' in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert json.dumps("a | b\n## c <b>") in code


@pytest.mark.parametrize(
    ("sources", "text", "languages", "license"),
    [
        (["starter"], "x", ("ko", "en"), "apache-2.0"),
        ([SONGYS], "x", ("ko",), "mit"),
        ([SONGYS, "starter"], "x", ("ko", "en"), None),
        ([SONGYS, "own.csv"], "x", ("ko",), None),
        (["own.csv"], "안녕 hello hello hello", ("ko",), None),
        (["own.csv"], "ㅋㅋ", ("ko",), None),
        (["own.csv"], "Guten Tag 1 2 3", (), None),
        (["own.csv"], "123 !?", (), None),
    ],
)
def test_languages_and_licence_come_from_the_data(records, sources, text, languages, license):
    found = said_in(from_data(records, *sources), text)
    assert (languages_of(found), license_of(found)) == (languages, license)


def test_a_person_s_edit_is_told_apart(records, trained, tmp_path):
    ours = card_of(records, revision=COMMIT).encode()
    assert is_ours(ours) and pinned_commit(ours) == COMMIT
    assert pinned_commit(card_of(records).encode()) is None
    for edited in (ours.replace(b"small", b"tiny", 1), ours + b"PS.", ours.rpartition(b"<!--")[0], b"# Mine"):
        assert not is_ours(edited)
    description = (
        "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
        "automatically generated."
    )
    blank = ModelCard.from_template(ModelCardData(tags=["x"]), model_description=description)
    stock = str(blank).encode()
    assert is_ours(stock)
    assert not is_ours(stock.replace(b"[More Information Needed]", b"Me", 1))

    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    for text, kept in ((None, None), (ours, None), (stock, None), (b"# Mine", b"# Mine")):
        if text is not None:
            (folder / "README.md").write_bytes(text)
        assert own_card(str(folder)) == kept
    (folder / "README.md").write_bytes("# 내 봇".encode("cp949"))
    with pytest.raises(HubError, match="must be UTF-8 text"):
        own_card(str(folder))
