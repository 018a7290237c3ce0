import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.recipes import parse_settings, read_recipe, recipe_files, recipe_names, settings_of_run
from chatformer.configuration.training import LENGTHS, TrainingSettings, check_settings

PROGRAM = "chatformer train"


def parsed(*arguments):
    return parse_settings(arguments, program=PROGRAM).flat()


def written(path, **settings):
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    return str(path)


def error_of(recipe):
    with pytest.raises(SettingsError) as caught:
        read_recipe(str(recipe))
    return str(caught.value)


@pytest.mark.parametrize("sign", ["-", "_"])
def test_flags_may_be_spelt_with_dashes_and_underscores(sign):
    found = parsed(f"--learning{sign}rate", "3e-4", f"--d{sign}model=64", f"--skip{sign}bad{sign}rows")
    assert (found["learning_rate"], found["d_model"], found["skip_bad_rows"]) == (3e-4, 64, True)


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path):
    recipe = written(tmp_path / "mine.yaml", learning_rate=0.5, seed=7, data="a.csv")
    found = parsed("--recipe", recipe, "--seed", "8")
    changed = {"recipe": recipe, "learning_rate": 0.5, "seed": 8, "data": ("a.csv",)}
    assert found == TrainingSettings().flat() | changed
    assert parsed(f"--recipe={recipe}", "--data", "b.csv", "c.csv")["data"] == ("b.csv", "c.csv")


def test_a_recipe_can_say_only_how_it_differs_from_another(tmp_path):
    base = written(tmp_path / "base.yaml", size="mini", seed=7, data=["a.txt", "b.txt"])
    variant = written(tmp_path / "variant.yml", recipe=base, seed=8)
    found = read_recipe(variant).flat()
    changed = {"recipe": variant, "size": "mini", "seed": 8, "data": ("a.txt", "b.txt")}
    assert found == TrainingSettings().flat() | changed

    upon_ours = written(tmp_path / "ours.yaml", recipe="quickstart", dropout=0)
    assert read_recipe(upon_ours).flat() == read_recipe("quickstart").flat() | {"recipe": upon_ours, "dropout": 0.0}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_length_takes_the_place_of_that_of_the_recipe(name, tmp_path):
    def lengths(settings):
        return {other: settings[other] for other in LENGTHS}

    for other in LENGTHS:
        base = written(tmp_path / "base.yaml", **{other: 7})
        given = dict.fromkeys(LENGTHS) | {name: 3}
        assert lengths(parsed("--recipe", base, f"--{name.replace('_', '-')}", "3")) == given
        assert lengths(read_recipe(written(tmp_path / "mine.yaml", recipe=base, **{name: 3})).flat()) == given
        assert lengths(parsed("--recipe", base)) == dict.fromkeys(LENGTHS) | {other: 7}


def test_a_run_of_an_earlier_version_has_the_steps_that_it_took(tmp_path):
    recorded = read_recipe(written(tmp_path / "training_settings.yaml", max_steps=3, num_train_epochs=20)).flat()
    assert (recorded["max_steps"], recorded["num_train_epochs"]) == (3, None)


def test_two_lengths_at_once_are_refused():
    settings = parse_settings(["--data", "a.csv", "--max-steps", "3", "--num-train-epochs", "4"], program=PROGRAM)
    with pytest.raises(SettingsError, match="--max-steps and --num-train-epochs each say how long to train"):
        check_settings(settings)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data", "starter", "--data-repeats", "2"],
            "has 1 numbers, and --data 1 names: it needs one for",
        ),
        (["--data", "starter", "emoji", "--data-repeats", "2"], "has 1 numbers, and --data 2 names"),
        (["--data", "starter", "emoji", "--data-repeats", "2", "0"], "must be at least 1, but one number is 0"),
    ],
)
def test_repeats_that_no_data_can_have_are_refused(flags, message):
    settings = parse_settings([*flags, "--output-dir", "runs"], program=PROGRAM)
    with pytest.raises(SettingsError, match=f"--data-repeats {message}"):
        check_settings(settings)


def test_a_list_of_numbers_is_read_as_one(tmp_path):
    assert read_recipe(written(tmp_path / "mine.yaml", data_repeats=[8, 3])).flat()["data_repeats"] == (8, 3)
    assert "data_repeats must be a whole number or a list of whole numbers, but it is ['8']" in error_of(
        written(tmp_path / "texts.yaml", data_repeats=["8"])
    )


def test_the_files_of_a_recipe_are_known(tmp_path):
    base = written(tmp_path / "base.yaml", recipe="quickstart", size="mini")
    mine = written(tmp_path / "mine.yaml", recipe="base.yaml")
    assert recipe_files(mine) == [tmp_path / "mine.yaml", Path(base)]
    assert recipe_files("quickstart") == recipe_files(None) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume-changed"], "--resume-changed is for --resume"),
        (["--resume", "--overwrite-output-dir"], "give one of them"),
        (["--resume", "--minutes", "3"], "--minutes plans a new run"),
    ],
)
def test_flags_of_resuming_that_do_not_go_together(flags, message):
    settings = parse_settings(["--data", "a.csv", "--output-dir", "nowhere", *flags], program=PROGRAM)
    with pytest.raises(SettingsError, match=message):
        check_settings(settings)


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_that_comes_with_the_package_can_be_read(recipe):
    found = read_recipe(recipe).flat()
    assert found["recipe"] == recipe
    assert found["data"]


def test_yaml_numbers_are_read_as_people_mean_them(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 1e-3\ndropout: 0\nmixed_precision: no\nd_model: null\n")
    found = read_recipe(str(recipe)).flat()
    assert found["learning_rate"] == 0.001 and type(found["learning_rate"]) is float
    assert found["dropout"] == 0 and type(found["dropout"]) is float
    assert (found["mixed_precision"], found["d_model"]) == ("no", None)


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [("learning_rat", "learning_rate"), ("learning-rate", "learning_rate"), ("vocabsize", "vocab_size")],
)
def test_a_misspelt_key_is_refused_with_its_file_and_the_nearest(tmp_path, misspelt, nearest):
    recipe = written(tmp_path / "mine.yaml", **{misspelt: 1})
    assert error_of(recipe) == f"recipe {recipe}: there is no setting {misspelt!r}. Did you mean {nearest!r}?"


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("learning_rate", "fast", "a number, but it is 'fast'"),
        ("learning_rate", True, "a number, but it is True"),
        ("seed", 1.5, "a whole number, but it is 1.5"),
        ("d_model", True, "a whole number, but it is True"),
        ("max_steps", "10", "a whole number, but it is '10'"),
        ("seed", None, "a whole number, but it is None"),
        ("resume", "yes", "true or false, but it is 'yes'"),
        ("size", 3, "a text, but it is 3"),
        ("encoding", ["utf-8"], r"a text, but it is ['utf-8']"),
        ("data", [1, 2], "a text or a list of texts, but it is [1, 2]"),
        ("lr_scheduler_type", "cosin", "one of noam, inverse_sqrt, cosine, linear, constant, but it is 'cosin'"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_with_file_and_key(tmp_path, key, value, rule):
    recipe = written(tmp_path / "mine.yaml", **{key: value})
    assert error_of(recipe) == f"recipe {recipe}: {key} must be {rule}."


def test_what_is_no_recipe_is_refused(tmp_path):
    recipe = tmp_path / "mine.yaml"
    assert error_of(recipe) == f"There is no recipe file {recipe}."
    recipe.write_text("- size\n- small\n")
    assert "must be a list of settings such as `size: small`" in error_of(recipe)
    recipe.write_text("")
    assert "must be a list of settings" in error_of(recipe)
    recipe.write_text("size: [small\n")
    assert f"recipe {recipe} is not valid YAML" in error_of(recipe)
    recipe.write_text("size: tiny\nseed: 1\nsize: mini\n")
    assert "size is given twice" in error_of(recipe) and "line 3" in error_of(recipe)
    recipe.write_text("&base\nsize: tiny\nseed: 1\n")
    assert read_recipe(str(recipe)).model.size == "tiny"
    message = error_of("quickstrat")
    assert "There is no recipe 'quickstrat'" in message and "Did you mean 'quickstart'?" in message


def test_a_misspelt_flag_is_refused_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as exit_:
        parsed("--learning-rat", "1")
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.out == ""
    assert "--learning-rat" in captured.err and "Perhaps you meant" in captured.err
    assert "--learning-rate FLOAT" in captured.err


@pytest.mark.parametrize("arguments", [["--seed", "x"], ["--lr-scheduler-type", "cosin"], ["--dropout"], ["stray"]])
def test_a_flag_with_a_wrong_value_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        parsed(*arguments)
    assert exit_.value.code == 2
    assert arguments[-1].strip("-") in capsys.readouterr().err


def test_every_setting_is_explained_in_the_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        parsed("--help")
    assert exit_.value.code == 0
    text = re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out)
    for name in TrainingSettings().flat():
        # Deeper in a line it would be another flag's explanation that mentions this one.
        flag = re.escape(f"--{name.replace('_', '-')}")
        explained = re.search(rf"^ {{1,2}}{flag}\b(.*?)(?=^ {{1,2}}--|^ *\n|\Z)", text, re.DOTALL | re.MULTILINE)
        assert explained, name
        explanation = re.sub(r"\(default:.*?\)", "", explained[1], flags=re.DOTALL)
        assert re.search(r"[a-z]+ .*[a-z\d)]\.\s*$", explanation, re.DOTALL), name


def test_a_resumed_run_has_the_settings_that_it_was_begun_with(tmp_path):
    written(tmp_path / "training_settings.yaml", seed=7, learning_rate=0.5, output_dir="elsewhere")
    found = parsed("--output-dir", str(tmp_path), "--resume", "--learning-rate", "0.25")
    assert (found["seed"], found["learning_rate"], found["resume"]) == (7, 0.25, True)
    assert found["output_dir"] == str(tmp_path)
    assert parsed("--resume", f"--output_dir={tmp_path}")["seed"] == 7
    # Who names a recipe means that recipe, and who does not resume begins anew.
    assert parsed("--resume", "--output-dir", str(tmp_path), "--recipe", "quickstart")["seed"] == 42
    assert parsed("--output-dir", str(tmp_path))["seed"] == 42


def test_the_data_of_a_run_is_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "began" / "runs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "began" / "FAQ.csv").write_text("")

    def names(called, **more):
        folder = tmp_path / "began" / "runs"
        stated = {"data": ["FAQ.csv", "user/talks"], "validation_data": ["/FAQ.csv"], "output_dir": called, **more}
        written(folder / "training_settings.yaml", **stated)
        found = settings_of_run(Path(os.path.relpath(folder))).data
        return found.data, found.validation_data, found.data_sha256

    as_stated = (("FAQ.csv", "user/talks"), ("/FAQ.csv",), None)
    there = (str(tmp_path / "began" / "FAQ.csv"), "user/talks")
    monkeypatch.chdir(tmp_path / "began")
    assert names("runs") == names("./runs") == as_stated
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert names("runs") == names("./runs") == (there, ("/FAQ.csv",), None)
    assert names("runs", data_sha256="0" * 64)[2] == "0" * 64
    # Nothing is guessed where the folder was called something else.
    assert names("run") == names(str(tmp_path / "runs")) == names("../runs") == as_stated
    (tmp_path / "elsewhere" / "FAQ.csv").write_text("")
    assert names("runs") == as_stated


def test_settings_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingSettings().recipe = "quickstart"


def test_flags_are_read_without_the_seconds_that_torch_takes_to_load():
    modules = "declaring data training recipes replies evaluation sharing"
    imports = ", ".join(f"chatformer.configuration.{module}" for module in modules.split())
    code = f"import sys, {imports}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_checksum_goes_with_the_data_that_it_was_stated_with(tmp_path):
    assert read_recipe("korean").data.data_sha256 is not None
    other = parse_settings(["--recipe", "korean", "--data", "FAQ.csv"], program="train").data
    assert (other.data, other.data_sha256) == (("FAQ.csv",), None)
    (tmp_path / "faq.yaml").write_text("recipe: korean\ndata: FAQ.csv\n", "utf-8")
    assert read_recipe(str(tmp_path / "faq.yaml")).data.data_sha256 is None
    stated = parse_settings(["--recipe", "korean", "--data", "FAQ.csv", "--data-sha256", "0" * 64], program="train")
    assert stated.data.data_sha256 == "0" * 64
