import functools
import json
import math
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from chatformer.configuration.recipes import read_recipe
from chatformer.evaluation import metrics
from chatformer.evaluation.metrics import corpus_metrics
from chatformer.training.checkpoints import checkpoints
from chatformer.training.pace import Pace
from chatformer.training.run import Run


def log_of(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text("utf-8").splitlines()]


def losses_of(folder):
    return [line["loss"] for line in log_of(folder) if "loss" in line]


def evaluations_of(folder):
    """Return the evaluations in the log, without how long they took."""
    return [{**line, "seconds": None} for line in log_of(folder) if "eval_loss" in line]


def record_of(folder):
    return json.loads((folder / "training_record.json").read_text("utf-8"))


def assert_same_weights(one, other, name="model.safetensors"):
    first, second = (safetensors.torch.load_file(folder / name) for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def until(holds, seconds=120):
    """Wait until `holds()` is true."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)


def test_a_run_writes_what_it_promises(trained, flags, train, tmp_path):
    promised = [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "training_log.jsonl",
        "training_record.json",
        "training_settings.yaml",
        "checkpoint-100",
        "checkpoint-150",
        *(["training_curves.png"] if find_spec("matplotlib") else []),
    ]
    found = listed(trained)
    assert set(promised) <= set(found)
    assert not [name for name in found if "partial" in name or "outdated" in name]

    assert [line["step"] for line in log_of(trained) if "loss" in line] == list(range(1, 151))
    evaluations = evaluations_of(trained)
    assert [line["step"] for line in evaluations] == [50, 100, 150]
    record = record_of(trained)
    assert record["finished"] and record["steps_taken"] == 150
    assert record["best"]["eval_loss"] == min(line["eval_loss"] for line in evaluations)

    # The settings in the folder are a recipe, and it trains the same model again.
    recipe = trained / "training_settings.yaml"
    assert read_recipe(str(recipe)).flat()["max_steps"] == 150
    assert train(["--recipe", recipe, "--output-dir", tmp_path / "again"]) == 0
    assert_same_weights(tmp_path / "again", trained)


def test_the_task_is_learnt(trained, tokenizer):
    losses = losses_of(trained)
    assert losses[0] == pytest.approx(math.log(len(tokenizer)), rel=0.1)
    # The rest is which digits were said, which so small a model has no time to learn to copy.
    assert losses[-1] < losses[0] / 2
    assert evaluations_of(trained)[-1]["eval_loss"] < losses[0] / 2


def test_the_stock_classes_load_the_folder_and_generate(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForSeq2SeqLM.from_pretrained(trained)
    assert type(model).__name__ == "ChatformerForConditionalGeneration"
    generated = model.generate(**tokenizer(["따라 해 1 2", "안녕 following"], return_tensors="pt", padding=True))
    assert generated.shape[0] == 2
    # The limit is the longest reply of the training, behind the start token.
    assert 1 < generated.shape[1] <= 17
    assert all(tokenizer.batch_decode(generated, skip_special_tokens=True))


def test_an_interrupted_run_that_is_resumed_equals_an_uninterrupted_one(flags, train, environment, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    plan = {"max_steps": 150, "eval_steps": 25, "dropout": 0.2, "attention_dropout": 0.1, "dropout_until": 0.5}
    assert train(flags(whole, **plan)) == 0

    command = [sys.executable, "-m", "chatformer.cli.main", "train", *flags(halves, **plan)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = halves / "training_log.jsonl"
    until(lambda: process.poll() is not None or (log.exists() and log.read_text("utf-8").count("\n") > 40))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert f"chatformer train --output-dir {halves} --resume" in errors
    stopped_at = record_of(halves)["steps_taken"]
    assert 30 < stopped_at < 150
    assert not record_of(halves)["finished"]

    assert train(["--output-dir", halves, "--resume"]) == 0
    assert_same_weights(whole, halves)
    assert_same_weights(whole / "checkpoint-150", halves / "checkpoint-150")
    assert evaluations_of(whole) == evaluations_of(halves)
    assert losses_of(whole) == losses_of(halves)
    assert record_of(halves)["best"] == record_of(whole)["best"]


def test_dropout_ends_with_its_share_of_the_steps(flags, train, tmp_path):
    plan = {"max_steps": 20, "eval_steps": 20, "save_steps": 10}
    drops = {**plan, "dropout": 0.2, "attention_dropout": 0.1, "activation_dropout": 0.1}
    assert train(flags(tmp_path / "none", **plan, dropout=0)) == 0
    assert train(flags(tmp_path / "never", **drops, dropout_until=0)) == 0
    assert_same_weights(tmp_path / "none", tmp_path / "never")
    assert train(flags(tmp_path / "always", **drops)) == 0
    assert train(flags(tmp_path / "half", **drops, dropout_until=0.5)) == 0
    assert losses_of(tmp_path / "always")[:10] == losses_of(tmp_path / "half")[:10]
    assert_same_weights(tmp_path / "always" / "checkpoint-10", tmp_path / "half" / "checkpoint-10")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "always", tmp_path / "half")


def test_a_run_that_is_made_longer_equals_one_that_was_long_from_the_start(flags, train, tmp_path):
    # Both are evaluated at the same steps, of which the best is published.
    plan = {"ema_decay": 0.9, "lr_scheduler_type": "noam", "learning_rate": 0.1, "eval_steps": 15}
    long, longer = tmp_path / "long", tmp_path / "longer"
    assert train(flags(long, max_steps=30, **plan)) == 0
    assert train(flags(longer, max_steps=15, **plan)) == 0
    assert train(["--output-dir", longer, "--resume", "--max-steps", 30, "--resume-changed"]) == 0
    assert_same_weights(long, longer)
    assert losses_of(long) == losses_of(longer)

    # What is published is the average, and not the last state of what is trained.
    published = safetensors.torch.load_file(long / "model.safetensors")
    last = safetensors.torch.load_file(long / "checkpoint-30/model.safetensors")
    assert not any(torch.equal(published[name], last[name]) for name in published)
    evaluations = evaluations_of(long)
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]


@pytest.fixture(scope="module")
def fifty_steps(flags, train, tmp_path_factory):
    """Return the flags of fifty steps without dropout, and the losses of one process."""
    folder = tmp_path_factory.mktemp("fifty") / "one"
    plan = {"max_steps": 50, "dropout": 0}
    assert train(flags(folder, **plan)) == 0
    return plan, losses_of(folder)


# A step here has about twenty exchanges, so that some of forty parts have none.
@pytest.mark.parametrize("num_parts", [4, 40])
def test_accumulating_changes_nothing(flags, train, tmp_path, fifty_steps, num_parts):
    plan, losses = fifty_steps
    assert train(flags(tmp_path / "parts", **plan, gradient_accumulation_steps=num_parts)) == 0
    assert losses_of(tmp_path / "parts") == pytest.approx(losses, rel=2e-5)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_change_nothing_and_are_compiled_once(flags, train, tmp_path, monkeypatch, backend):
    graphs, counts, compile_module, take_step = [], [], torch.nn.Module.compile, Run.take_step

    def compiler(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    def take_step_and_count(run):
        take_step(run)
        counts.append(len(graphs))

    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compile_module, backend=compiler))
    monkeypatch.setattr(Run, "take_step", take_step_and_count)
    plan = {"max_steps": 50, "dropout": 0, "encoder_layers": 2, "decoder_layers": 3}
    for folder, more in (("plain", []), ("compiled", ["--torch-compile"])):
        assert train([*flags(tmp_path / folder, **plan), *more]) == 0
        assert bool(graphs) == bool(more)
    # At first with padding or without, as the batches come, and then no more, whatever their lengths.
    assert counts[-1] == counts[-30] <= 6
    assert losses_of(tmp_path / "compiled") == pytest.approx(losses_of(tmp_path / "plain"), rel=2e-5)
    names = [
        safetensors.torch.load_file(tmp_path / folder / "model.safetensors").keys() for folder in ("plain", "compiled")
    ]
    assert names[0] == names[1]


def test_what_cannot_be_compiled_is_told(flags, train, tmp_path, monkeypatch, capsys):
    def compiler(graph, inputs):
        raise OSError("No working C++ compiler found")

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compile_module, backend=compiler))
    assert train([*flags(tmp_path / "run", max_steps=5), "--torch-compile"]) == 2
    message = capsys.readouterr().err
    assert "--torch-compile: the layers cannot be compiled here." in message
    assert "No working C++ compiler found" in message and "train without the flag" in message
    assert "Traceback" not in message


def test_a_folder_with_something_in_it_is_left_alone(flags, train, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("all of it")
    for more in ([], ["--overwrite-output-dir"]):
        assert train([*flags(tmp_path), *more]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: --output-dir {tmp_path} is not empty.")
        assert message.count("\n") == 1
    assert listed(tmp_path) == ["thesis.txt"]


def test_an_earlier_run_is_begun_anew_only_when_asked(flags, train, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(flags(folder, max_steps=2)) == 0
    assert train(flags(folder, max_steps=1)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert record_of(folder)["steps_taken"] == 2
    assert train([*flags(folder, max_steps=1), "--overwrite-output-dir"]) == 0
    assert (record_of(folder)["steps_taken"], len(losses_of(folder))) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "missing.csv"}, "There is no file missing.csv"),
        ({"recipe": "quickstrat"}, "Did you mean 'quickstart'?"),
        ({"recipe": "missing.yaml"}, "There is no recipe file missing.yaml"),
        ({"size": "smal"}, "Did you mean 'small'?"),
        ({"num_heads": 7}, "d_model (32) must be a multiple of num_heads (7)"),
        ({"vocab_size": 300}, "vocab_size must be more than 524, but it is 300"),
        ({"max_target_tokens": 1}, "--max-target-tokens (1)"),
        ({"validation_fraction": 1}, "--validation-fraction must be at least 0 and less than 1, but it is 1.0"),
        ({"logging_steps": 0}, "--logging-steps must be at least 1, but it is 0"),
        ({"learning_rate": "nan"}, "--learning-rate must be more than 0, but it is nan"),
        ({"num_train_epochs": 0}, "--num-train-epochs must be more than 0"),
        ({"ema_decay": 0.9, "average_checkpoints": 3}, "two ways to average"),
        ({"rdrop_alpha": 1, "dropout_until": 0.5}, "under other dropout, which --dropout-until ends"),
        ({"dropout_until": 1.5}, "--dropout-until must be"),
        ({"metric_for_best_model": "exact_match", "max_eval_replies": 0}, "needs replies"),
        ({"metric_for_best_model": "score", "validation_fraction": 0}, "needs validation data"),
        ({"early_stopping_patience": 1, "validation_fraction": 0}, "needs validation data"),
        ({"data_sha256": "0" * 64}, "is not the file that was expected"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_is_told_in_one_line(flags, train, tmp_path, capsys, changes, message):
    assert train(flags(tmp_path / "run", **changes)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    # Nothing is left of a run that could not begin.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is no data to train on: name it with --data"),
        (["--data", "a.csv"], "Say where the model is to be written: --output-dir DIR"),
        (["--data", "a.csv", "--output-dir", "nowhere", "--resume"], "There is nothing to resume: nowhere"),
        (["--output-dir", "nowhere", "--resume"], "There is nothing to resume: nowhere"),
    ],
)
def test_what_is_left_out_is_told_in_one_line(train, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert train(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert listed(tmp_path) == []


def test_a_folder_that_may_not_be_replaced_is_told_why(flags, train, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    for name, message in (("file", "is a file"), ("folder", "holds no run that --overwrite-output-dir may replace")):
        assert train([*flags(tmp_path / name), "--overwrite-output-dir"]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "folder" / "mine.txt").read_text() == "mine"


def test_questions_whose_beginning_is_not_read_are_counted(flags, train, tmp_path, capsys):
    for limit, is_told in ((4, True), (100, False)):
        assert train([*flags(None, max_source_tokens=limit), "--dry-run"]) == 0
        told = capsys.readouterr().err
        assert (f"has --max-source-tokens ({limit}) or more, and its beginning is not read" in told) == is_told


def test_inputs_that_are_all_too_long_are_named(flags, train, tmp_path, capsys):
    assert train(flags(tmp_path / "run", too_long="drop", max_source_tokens=1)) == 2
    assert "no input of one at most --max-source-tokens (1)" in capsys.readouterr().err


@pytest.mark.parametrize("metric", ["score", "chrf", "bleu"])
def test_a_metric_without_its_packages_is_told_before_anything_is_done(
    flags, train, tmp_path, monkeypatch, capsys, metric
):
    monkeypatch.setattr("chatformer.training.train.has_metrics", lambda: False)
    assert train(flags(tmp_path / "run", metric_for_best_model=metric)) == 2
    told = capsys.readouterr().err
    assert f"--metric-for-best-model {metric}" in told and "pip install 'chatformer[metrics]'" in told
    assert told.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_file_that_is_named_as_both_sides_is_told_of(flags, train, tmp_path, capsys, share):
    questions = [f"number {number}" for number in range(100)]
    answers = [text if number < 100 * share else text.upper() for number, text in enumerate(questions)]
    for name, lines in (("questions.txt", questions), ("answers.txt", answers)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
    arguments = flags(None, data=str(tmp_path / "questions.txt"), max_steps=3)
    arguments.insert(arguments.index(str(tmp_path / "questions.txt")) + 1, str(tmp_path / "answers.txt"))
    assert train([*arguments, "--dry-run"]) == 0
    assert ("Does --data name one file twice?" in capsys.readouterr().err) is (share > 0.5)


def test_bleu_counts_the_words_that_are_asked_for(flags, train, tmp_path, monkeypatch, capsys):
    asked = []

    def counted(*texts, bleu_tokenize):
        asked.append(bleu_tokenize)
        return corpus_metrics(*texts, bleu_tokenize=bleu_tokenize)

    monkeypatch.setattr(metrics, "corpus_metrics", counted)
    for words in ("13a", "char"):
        assert train(flags(tmp_path / words, bleu_tokenize=words, max_steps=2, eval_steps=1)) == 0
    # The second was tried before anything was done.
    assert asked == ["13a", "13a", "char", "char", "char"]
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "mecab_ko", None)
    assert train(flags(tmp_path / "ko", bleu_tokenize="ko-mecab")) == 2
    assert "--bleu-tokenize ko-mecab is not available" in capsys.readouterr().err
    assert not (tmp_path / "ko").exists()


@pytest.mark.parametrize("too_long", ["truncate", "drop"])
def test_exchanges_that_are_too_long_are_told_of(flags, train, tmp_path, capsys, too_long):
    rows = [(f"number {number}", f"{number} " * (1 + number % 20)) for number in range(100)]
    (tmp_path / "data.csv").write_text("question,answer\n" + "".join(f"{q},{a}\n" for q, a in rows), "utf-8")
    changes = {"max_steps": 5, "max_target_tokens": 16, "max_source_tokens": 6, "too_long": too_long}
    assert train([*flags(tmp_path / "run", data=str(tmp_path / "data.csv"), **changes), "--dry-run"]) == 0
    told = capsys.readouterr().err
    counts = re.findall(r"warning: left out of (\d+) exchanges to learn: (\d+), with replies of more", told)
    assert len(counts) == 1 and 0 < int(counts[0][1]) < int(counts[0][0])
    assert "--max-target-tokens (16)" in told and ("--max-source-tokens (6)" in told) == (too_long == "drop")


def test_a_dry_run_writes_nothing(flags, train, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train([*flags(tmp_path / "run", max_steps=50), "--dry-run"]) == 0
    assert listed(tmp_path) == []
    output = capsys.readouterr().out
    for name in ("learning_rate", "training_exchanges", "steps_per_epoch", "estimated_minutes", "estimated_memory"):
        assert name in output


def test_a_dry_run_shows_numbers_that_are_several(train, tmp_path, capsys):
    pytest.importorskip("sklearn")
    flags = ["--data", "starter", "digits", "--data-repeats", "2", "1", "--size", "tiny", "--max-steps", "50"]
    assert train([*flags, "--vocab-size", "600", "--output-dir", str(tmp_path / "run"), "--dry-run"]) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if "data_repeats" in line)
    assert shown.split()[-2:] == ["1", "│"] and " 2 1 " in shown


def test_the_pace_of_a_plan_is_measured_once(flags, train, tmp_path, monkeypatch, capsys):
    plans = []

    def measure(settings, *_):
        plans.append(settings)
        return Pace(step=0.06, evaluation=0.0)

    monkeypatch.setattr("chatformer.training.train.measure_pace", measure)
    assert train([*flags(tmp_path / "run"), "--minutes", "2", "--dry-run"]) == 0
    assert len(plans) == 1
    assert "2,000 steps of 300 tokens, about 2 minutes" in capsys.readouterr().err


def test_bad_rows_stop_a_run_unless_they_are_to_be_skipped(flags, train, conversations_file, tmp_path, capsys, caplog):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(conversations_file.read_text("utf-8") + '{"messages": []}\n', "utf-8")
    plan = {"data": broken, "max_steps": 1}
    assert train(flags(tmp_path / "stopped", **plan)) == 2
    assert "broken.jsonl, row 101" in capsys.readouterr().err
    assert train([*flags(tmp_path / "skipped", **plan), "--skip-bad-rows"]) == 0
    bad_row = json.loads((tmp_path / "skipped/bad_rows.jsonl").read_text("utf-8"))
    assert (Path(bad_row["file"]).name, bad_row["row"]) == ("broken.jsonl", 101)
    assert f"1 of 101 rows cannot be used and are listed in {tmp_path / 'skipped/bad_rows.jsonl'}" in caplog.text
    # A dry run has no folder to list them in.
    assert train([*flags(tmp_path / "dry", **plan), "--skip-bad-rows", "--dry-run"]) == 0
    assert "1 of 101 rows cannot be used and are left out" in caplog.text
    assert not (tmp_path / "dry").exists()


def test_without_validation_data_the_last_model_is_published(flags, train, tmp_path):
    folder = tmp_path / "run"
    assert train(flags(folder, max_steps=3, validation_fraction=0)) == 0
    assert_same_weights(folder, checkpoints(folder)[0])
    assert evaluations_of(folder) == []


def test_the_model_with_the_best_validation_is_the_published_one(flags, train, tmp_path):
    folder = tmp_path / "run"
    # So high a rate that it gets worse from some step on.
    plan = {"max_steps": 6, "eval_steps": 1, "learning_rate": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 1}
    assert train(flags(folder, **plan)) == 0
    evaluations = evaluations_of(folder)
    best = min(evaluations, key=lambda line: line["eval_loss"])
    assert best["step"] < 6
    assert record_of(folder)["best"]["step"] == best["step"]

    again = tmp_path / "again"
    assert train(flags(again, **plan | {"max_steps": best["step"]})) == 0
    assert_same_weights(folder, again)


@pytest.mark.parametrize("turns", [2, 4])
def test_the_chat_template_is_that_of_the_data(train, flags, tmp_path, turns):
    data = tmp_path / "data.jsonl"
    messages = [{"role": ("user", "assistant")[n % 2], "content": f"말 {n}"} for n in range(turns)]
    rows = [{"messages": [{**messages[0], "content": f"말 {row}"}, *messages[1:]]} for row in range(40)]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert train(flags(tmp_path / "model", data=data, max_steps=1)) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer.apply_chat_template([*messages[:2], messages[0]], return_dict=False)
    assert (ids == tokenizer(messages[0]["content"])["input_ids"]) == (turns == 2)


@pytest.mark.parametrize("validation_fraction", [0, 0.02, 0.2])
def test_a_training_that_taught_nothing_says_so_last_of_all(flags, train, tmp_path, capsys, validation_fraction):
    arguments = flags(tmp_path / "run", max_steps=3, learning_rate=1e-5, validation_fraction=validation_fraction)
    assert train(arguments) == 0
    told = capsys.readouterr().err
    end = told[told.index("Talk to it with") :]
    assert "warning: It does not listen." in end and "--max-steps" in end
    assert "`chatformer doctor" in end
    # And before it begins.
    assert "3 steps teach little" in told[: told.index("Talk to it with")]
