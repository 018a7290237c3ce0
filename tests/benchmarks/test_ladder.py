import csv
import importlib
import json
import random
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """Return a function that imports a script of the benchmarks, which are not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def items_of_lengths(lengths, right):
    """Exchanges whose questions have so many words; the reply is the reference where `right` is true of the length."""
    return [
        {
            "history": [{"role": "user", "content": " ".join(["word"] * length)}],
            "reference": "one two three four five",
            "reply": "one two three four five" if right(length) else "seven eight",
        }
        for length in lengths
    ]


def test_lengths_are_in_groups_of_about_one_size_and_each_in_one(benchmark):
    report = benchmark("ladder_report")
    lengths = [*[3] * 200, *[5] * 20, *range(6, 106), *[200] * 10]
    groups = report.groups_by_length(items_of_lengths(lengths, bool))
    assert next(iter(groups)) == "3 to 4" and list(groups)[-1].endswith(" to 200")
    bounds = list(groups.values())
    assert [low for low, _ in bounds[1:]] == [high for _, high in bounds[:-1]]
    assert min(sum(low <= length < high for length in lengths) for low, high in bounds) >= 40
    assert report.groups_by_length(items_of_lengths([4] * 120, bool)) == {"4": (4, 5)}


def test_the_metric_by_length_is_that_of_the_group_and_the_mean_of_the_seeds(benchmark):
    report = benchmark("ladder_report")
    lengths = [*range(1, 101)] * 2
    right = items_of_lengths(lengths, bool)
    short = items_of_lengths(lengths, lambda length: length < 50)
    none = items_of_lengths(lengths, lambda length: False)
    found = report.results_by_length({"bahdanau": [right, right], "seq2seq": [right, short], "x": [none, none]}, "bleu")
    assert [round(figure) for figure in found["bahdanau"].values()] == [100] * 4
    assert [round(figure) for figure in found["seq2seq"].values()] == [100, 100, 50, 50]
    assert max(found["x"].values()) < 1


def test_the_table_has_the_figures_of_each_seed(benchmark):
    report = benchmark("ladder_report")
    one = {
        **{"parameters": 4_660_000, "steps": 700, "training_tokens_per_second": 1234, "minutes": 5.04},
        **{"bits_per_character": 0.5, "bleu": 36.04, "chrf": 60.0, "exact_match": 10.0},
    }
    results = {"seq2seq": [one, {**one, "bleu": 35.5}]}
    lines = report.markdown("songys", "bleu", (1, 2), results, {"seq2seq": 98.6}, {"seq2seq": {"1 to 3": 30.0}})
    lines = lines.splitlines()
    assert lines[0] == "Songys, 700 steps, seeds 1 / 2:"
    assert (
        lines[4] == "| seq2seq | 4.7 M | 1,234 / 1,234 | 99 | 5.0 / 5.0 | 0.500 / 0.500 | 36.0 / 35.5 | 10.0 / 10.0% |"
    )
    assert lines[-1] == "| seq2seq | 30.0 |"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Give either --quick, or --data"),
        (["--quick", "--data", "ChatbotData.csv"], "Give either --quick, or --data"),
        (["--quick", "--rungs", "bert"], "--rungs bert: there is no such rung. The rungs are seq2seq, bahdanau"),
        (["--data", "."], "has no train.lc.norm.tok.en"),
    ],
)
def test_mistakes_are_explained(benchmark, tmp_path, capsys, flags, message):
    assert benchmark("ladder").main([*flags, "--output-dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_the_recipes_of_a_ladder_have_the_same_steps_and_tokenizer(benchmark, tmp_path):
    from chatformer.configuration.recipes import read_recipe
    from chatformer.configuration.training import check_settings

    recipes = FOLDER / "recipes"
    for other, recipe in (
        ("quickstart", "quickstart-bahdanau"),
        ("korean", "songys-bahdanau"),
        (str(recipes / "multi30k.yaml"), "multi30k-bahdanau"),
    ):
        transformer, recurrent = read_recipe(other), read_recipe(str(recipes / f"{recipe}.yaml"))
        check_settings(recurrent.changed({"data": ["starter"], "output_dir": str(tmp_path)}, where="test"))
        for same in ("tokenizer", "data"):
            assert getattr(transformer, same) == getattr(recurrent, same)
        for same in ("num_train_epochs", "max_steps", "tokens_per_step"):
            assert transformer.flat()[same] == recurrent.flat()[same]


def test_a_model_that_never_listened_is_told_of(benchmark, tmp_path):
    for gains, never in (((0.0, -0.001), True), ((0.0, 0.4), False)):
        folder = tmp_path / str(never)
        folder.mkdir()
        (folder / "training_settings.yaml").write_text("data: [starter]\n", "utf-8")
        lines = [
            {"step": 1, "eval_loss": 3.0, "eval_bits_per_character": 1.0, "eval_source_gain": gain} for gain in gains
        ]
        (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        assert benchmark("ladder").never_listened(folder) is never
    assert not benchmark("ladder").never_listened(tmp_path)


@pytest.mark.slow
def test_every_rung_is_trained_and_what_is_finished_is_not_repeated(benchmark, tmp_path, capfd):
    words, data, output = ["하나", "둘", "셋", "넷", "다섯"], tmp_path / "ChatbotData.csv", tmp_path / "runs"
    with data.open("w", encoding="utf-8", newline="") as file:
        rows = [[" ".join(random.Random(row).choices(words, k=4)), f"{row} 번째"] for row in range(300)]
        csv.writer(file).writerows([["Q", "A"], *rows])
    command = ["--data", str(data), "--output-dir", str(output), "--max-steps", "3", "--seeds", "1", "2"]
    main = benchmark("ladder").main
    assert main(command) == 0
    printed = capfd.readouterr()
    shown = [line for line in printed.out.splitlines() if line.startswith("$ ")]
    assert f"warning: {output / 'transformer-2'} never listened to its source" in printed.err
    report = json.loads((output / "ladder.json").read_text("utf-8"))
    rungs = list(report["rungs"])
    assert rungs[:3] == ["seq2seq", "bahdanau", "transformer"]
    assert [line.split()[2] for line in shown] == ["train", "evaluate"] * 2 * len(rungs)
    assert all(len(of_seeds) == 2 for of_seeds in report["rungs"].values())
    tokenizers = {(output / f"{rung}-{seed}" / "tokenizer.json").read_bytes() for rung in rungs for seed in (1, 2)}
    assert len(tokenizers) == 1
    assert all(imread(output / name).std() > 0 for name in ("ladder.png", "attention.png"))
    (output / "bahdanau-2" / "evaluation.json").unlink()
    assert main(command) == 0
    shown = [line for line in capfd.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line.split()[2] for line in shown] == ["train", "evaluate"]
    assert shown[0].endswith("bahdanau-2 --resume")
