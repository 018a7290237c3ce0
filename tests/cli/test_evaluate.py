import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import sacrebleu
import torch

from chatformer.cli.main import main
from chatformer.configuration.evaluation import EvaluationSettings
from chatformer.evaluation.evaluating import data_of


@pytest.fixture
def evaluate(monkeypatch, capfd):
    """Return a function that evaluates within this process and returns the exit status and what was printed."""
    from accelerate.state import AcceleratorState

    def run(*arguments):
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        # What came before is no concern of the caller.
        capfd.readouterr()
        try:
            status = main(["evaluate", *(str(argument) for argument in arguments)])
        finally:
            torch.set_num_threads(num_threads)
        return status, capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def record(trained):
    return json.loads((trained / "training_record.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def without_run(trained, tmp_path_factory):
    """Return a folder with the model alone, as if it came from the Hub."""
    folder = tmp_path_factory.mktemp("alone") / "model"
    left_out = shutil.ignore_patterns("training_*", "checkpoint-*")
    shutil.copytree(trained, folder, ignore=left_out)
    return folder


@pytest.fixture
def ten(conversations, tmp_path):
    """Return a file of ten conversations."""
    file = tmp_path / "ten.jsonl"
    file.write_text("".join(json.dumps(made, ensure_ascii=False) + "\n" for made in conversations[:10]), "utf-8")
    return file


def read(file):
    return json.loads(file.read_text("utf-8"))


def test_a_run_is_measured_on_its_own_validation_split(evaluate, trained, record, tmp_path):
    file = tmp_path / "figures.json"
    status, printed = evaluate(trained, "--output-file", file)
    assert status == 0, printed.err
    report = read(file)
    # It is the model of the best evaluation, and that was the same evaluation.
    figures = report["figures"]["all"]
    for name in ("loss", "bits_per_character", "chrf", "exact_match", "distinct_replies"):
        assert figures[name] == pytest.approx(record["best"][f"eval_{name}"], rel=1e-5), name
    assert report["data"]["exchanges"] == record["overview"]["validation_exchanges"]
    assert report["training_data"]["sha256"] == record["data"]["training_sha256"]
    replies, references = ([item[name] for item in report["items"]] for name in ("reply", "reference"))
    assert figures["bleu"] == sacrebleu.corpus_bleu(replies, [references]).score
    nearest = [item["nearest question"] for item in report["items"]]
    assert report["baselines"]["nearest question"]["all"]["chrf"] == sacrebleu.corpus_chrf(nearest, [references]).score
    for word in ("seen", "unseen", "nearest", "frequent", "perplexity", f"{figures['loss']:.3f}", "version:"):
        assert word in printed.out
    assert replies[0] in printed.out and str(file) in printed.out
    by_turns = report["by_turns"]
    assert sum(group["exchanges"] for group in by_turns.values()) == len(report["items"])
    assert len(by_turns) > 1 and "by number of questions so far" in printed.out
    assert f"{by_turns['2']['bits_per_character']:.3f}" in printed.out
    assert "│ replies" not in printed.out
    # A bar is for terminals.
    assert printed.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]

    again = tmp_path / "again.json"
    assert evaluate(trained, "--output-file", again)[0] == 0
    assert again.read_text("utf-8") == file.read_text("utf-8").replace("figures.json", "again.json")


def test_the_repetition_penalty_is_recorded_and_can_be_taken_away(evaluate, trained, tmp_path):
    own = json.loads((trained / "generation_config.json").read_text("utf-8"))["repetition_penalty"]
    replies = {}
    for flags, penalty in (((), own), (("--repetition-penalty", 1), 1), (("--repetition-penalty", 0.01), 0.01)):
        status, printed = evaluate(trained, *flags, "--max-replies", 20, "--output-file", tmp_path / "figures.json")
        assert status == 0, printed.err
        report = read(tmp_path / "figures.json")
        assert report["settings"]["repetition_penalty"] == penalty
        replies[penalty] = [item.get("reply") for item in report["items"]]
    assert own == 1.1 and replies[0.01] != replies[1]


def test_data_of_any_kind_is_measured_and_what_is_missing_is_said(evaluate, without_run, ten, tmp_path):
    status, printed = evaluate(without_run, "--data", ten, "--max-replies", 3)
    assert status == 0, printed.err
    report = read(without_run / "evaluation.json")
    # Of 3 replies, and losses of more.
    assert report["figures"]["all"]["num_replies"] == 3 < report["exchanges"]["all"]
    assert [row.split()[-2] for row in printed.out.splitlines() if row.startswith("│ replies")][:1] == ["3"]
    (note,) = report["notes"]
    assert f"note: {note}" in printed.out and "--training-data" in note
    assert list(report["figures"]) == ["all"] and not report["baselines"]
    assert report["figures"]["all"]["copied_replies"] is None
    assert ["reply" in item for item in report["items"]] == [True] * 3 + [False] * (len(report["items"]) - 3)

    csv = tmp_path / "data.csv"
    csv.write_text('what,then\n따라 해 0 0,"네, 0 0"\n안녕,처음 봐요\n', "utf-8")
    columns = ["--question-column", "what", "--answer-column", "then"]
    flags = ["--data", csv, "--training-data", csv, *columns, "--num-beams", 2, "--bleu-tokenize", "char"]
    status, printed = evaluate(without_run, *flags)
    assert status == 0, printed.err
    report = read(without_run / "evaluation.json")
    assert report["exchanges"] == {"all": 2, "seen": 2, "unseen": 0}
    assert report["figures"]["unseen"] is None and not report["notes"]
    assert report["baselines"]["nearest question"]["all"]["exact_match"] == 100
    assert "tok:char" in report["signatures"]["bleu"]


def test_what_the_template_leaves_out_is_said(evaluate, reads_questions, ten, tmp_path):
    file = tmp_path / "figures.json"
    status, printed = evaluate(reads_questions, "--data", ten, "--max-replies", 1, "--output-file", file)
    assert status == 0, printed.err
    (note,) = (note for note in read(file)["notes"] if "chat template leaves out" in note)
    assert f"note: {note}" in printed.out and "a system message (" in note and "the turns before a question (" in note


def test_a_baseline_that_is_better_is_named(evaluate, without_run, tmp_path):
    data = tmp_path / "data.csv"
    rows = [f"무엇이 {number}인가요,그것은 {number} 입니다" for number in range(20)]
    data.write_text("\n".join(["Q,A", *rows]) + "\n", "utf-8")
    status, printed = evaluate(without_run, "--data", data, "--training-data", data)
    assert status == 0, printed.err
    (note,) = (note for note in read(without_run / "evaluation.json")["notes"] if "is better than the model" in note)
    assert f"note: {note}" in printed.out
    assert "nearest training question" in note and "on all 20 exchanges (exact match 100.0% instead of" in note


@pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs ctranslate2")
def test_bad_rows_are_listed_of_what_is_measured_on_and_of_the_training_data(ten, tmp_path, caplog):
    broken = {name: tmp_path / f"{name}.jsonl" for name in ("data", "training_data")}
    for name, file in broken.items():
        file.write_text(ten.read_text("utf-8") + json.dumps({"messages": name}) + "\n", "utf-8")
    files = {name: (str(file),) for name, file in broken.items()}
    settings = EvaluationSettings(model="bot", skip_bad_rows=True, **files)
    conversations, training, _ = data_of(settings, None, tmp_path / "out")
    assert (len(conversations), len(training)) == (10, 10)
    for name, listed in (("data", "bad_evaluation_rows.jsonl"), ("training_data", "bad_training_rows.jsonl")):
        row = read(tmp_path / "out" / listed)
        assert (row["file"], row["row"]) == (str(broken[name]), 11)
        assert f"1 of 11 rows cannot be used and are listed in {tmp_path / 'out' / listed}" in caplog.text
    with pytest.raises(ValueError, match="1 of 11 rows"):
        data_of(EvaluationSettings(model="bot", **files), None, tmp_path)


def test_ctranslate2_gives_the_same_figures_and_replies(evaluate, without_run, conversations_file, tmp_path):
    assert main(["export", str(without_run), "--to", "ctranslate2", "--output-dir", str(tmp_path / "ct2")]) == 0
    data = ["--data", conversations_file]
    assert evaluate(without_run, *data)[0] == 0
    status, printed = evaluate(tmp_path / "ct2", *data, "--engine", "ctranslate2", "--device", "cpu")
    assert status == 0, printed.err
    one, other = read(without_run / "evaluation.json"), read(tmp_path / "ct2/evaluation.json")
    assert [item["reply"] for item in one["items"]] == [item["reply"] for item in other["items"]]
    assert len({item["reply"] for item in one["items"]}) > 1
    for first, second in zip(one["items"], other["items"], strict=True):
        assert first["nats"] == pytest.approx(second["nats"], abs=1e-3)
    for name, value in one["figures"]["all"].items():
        assert other["figures"]["all"][name] == (value if value is None else pytest.approx(value, abs=1e-3)), name


def test_two_processes_equal_one(evaluate, environment, trained, tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    # Small batches, so that both have several.
    flags = [str(trained), "--batch-tokens", "60", "--output-file"]
    assert evaluate(*flags, one)[0] == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "chatformer.cli.evaluate", *flags, str(two)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("perplexity") == 1
    # The bar of the main process counts its own half.
    total = len(read(one)["items"])
    assert f"{total}/{total}" not in process.stderr
    assert two.read_text("utf-8") == one.read_text("utf-8").replace("one.json", "two.json")


def test_data_that_has_changed_is_not_taken_for_the_runs_own(evaluate, flags, train, conversations, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [json.dumps(made, ensure_ascii=False) + "\n" for made in conversations]
    data.write_text("".join(rows), "utf-8")
    assert train(flags(tmp_path / "run", data=data, max_steps=1)) == 0
    data.write_text("".join(rows[:-5]), "utf-8")
    status, printed = evaluate(tmp_path / "run")
    assert status == 2
    assert f"{data} has changed since" in printed.err and printed.err.count("\n") == 1
    status, printed = evaluate(tmp_path / "run", "--data", data, "--max-replies", 0)
    assert "BLEU" not in printed.out and "│ replies" not in printed.out
    assert status == 0, printed.err
    assert "has changed since" in printed.out
    assert list(read(tmp_path / "run/evaluation.json")["figures"]) == ["all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["{empty}"], "holds no model"),
        (["{model}"], "There is nothing to measure on: {model} has no training_settings.yaml"),
        (["{model}", "--data", "missing.csv"], "There is no file missing.csv"),
        (["{model}", "--data", "{ten}", "--question-column", "q"], "has no column 'q'"),
        (["{model}", "--data", "{ten}", "--engine", "ctranslate2"], "is not a CTranslate2 model"),
        (
            ["{model}", "--data", "{ten}", "--num-beams", "0"],
            "--num-beams must be at least 1 and at most 1000, but it is 0",
        ),
        (["{model}", "--data", "{ten}", "--max-target-tokens", "1"], "Every reference is too long"),
        (["{model}", "--data", "{ten}", "--output-file", "{empty}/a/b.json"], "There is no folder {empty}/a"),
        (["{model}", "--data", "{ten}", "--bleu-tokenize", "ja-mecab"], "--bleu-tokenize ja-mecab is not available"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(evaluate, without_run, ten, tmp_path, monkeypatch, arguments, message):
    if "ja-mecab" in arguments and find_spec("MeCab"):
        pytest.skip("it can be had here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"model": without_run, "ten": ten, "empty": tmp_path / "empty"}
    status, printed = evaluate(*(argument.format(**places) for argument in arguments))
    assert status == 2
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message.format(**places) in printed.err
    assert printed.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "ten.jsonl"]
