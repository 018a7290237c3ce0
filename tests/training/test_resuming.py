"""On resume every setting takes effect, or is refused in a sentence; the table says which."""

import shutil
import typing
from types import SimpleNamespace

import pytest
import torch

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.training import TrainingSettings
from chatformer.training import run as loop
from chatformer.training.building import make_optimizer
from chatformer.training.checkpoints import load_checkpoint
from chatformer.training.progress import Progress
from chatformer.training.resuming import TABLE, check_changes, go_on, refusal_of
from chatformer.training.schedules import make_scheduler

# Of a run whose plan is complete.
BEGUN_WITH = {
    "data": ["a.csv"],
    "size": "tiny",
    "max_steps": 10,
    "learning_rate": 1e-3,
    "ema_decay": 0.9,
    "average_checkpoints": 2,
}


def test_every_setting_has_a_row():
    assert TABLE.keys() == TrainingSettings().flat().keys()
    assert all(row.reason and bool(row.refusal) == (row.is_refused is not None) for row in TABLE.values())


def other_value(name, value):
    """Return another value of a setting, of its type."""
    if name == "lr_scheduler_type":
        return "linear"
    types = typing.get_type_hints(TrainingSettings)
    hints = {"recipe": types.pop("recipe")}
    for section in types.values():
        hints |= typing.get_type_hints(section)
    hint = hints[name]
    if typing.get_origin(hint) is tuple:
        return [2] if typing.get_args(hint)[0] is int else ["another.csv"]
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return next(each for each in typing.get_args(hint) if each != value)
    if hint is str:
        return "another"
    return not value if hint is bool else (value or 0) + 3 if hint is int else (value or 0.5) / 2


@pytest.mark.parametrize("name", TrainingSettings().flat())
def test_a_change_is_free_or_applied_or_refused_as_the_table_says(name, tmp_path):
    before = TrainingSettings().changed(BEGUN_WITH, where="test")
    now = before.changed({name: other_value(name, before.flat()[name])}, where="test")
    assert now.flat()[name] != before.flat()[name]
    wanted = now.changed({"resume_changed": True}, where="test")
    row = TABLE[name]
    if row.effect == "refused":
        for settings in (now, wanted):
            with pytest.raises(SettingsError, match="cannot be resumed") as error:
                check_changes(tmp_path, before, settings)
            assert f"{name}: " in str(error.value) and row.reason in str(error.value)
        return
    check_changes(tmp_path, before, wanted)
    if row.effect == "free":
        check_changes(tmp_path, before, now)
    else:
        with pytest.raises(SettingsError, match=rf"other settings:\n    {name}: .* before, .* now"):
            check_changes(tmp_path, before, now)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ema_decay", {"ema_decay": 0.0}),
        ("average_checkpoints", {"average_checkpoints": 0}),
        ("mixed_precision", {"mixed_precision": "fp16"}),
        ("lr_scheduler_type", {"lr_scheduler_type": "noam"}),
    ],
)
def test_a_change_that_cannot_take_effect_is_refused(name, values, tmp_path):
    before = TrainingSettings().changed(BEGUN_WITH, where="test")
    now = before.changed({"resume_changed": True, **values}, where="test")
    with pytest.raises(SettingsError) as error:
        check_changes(tmp_path, before, now)
    assert TABLE[name].refusal in str(error.value)
    assert refusal_of("lr_scheduler_type", before.flat(), {**now.flat(), "learning_rate": 1.0}) is None


@pytest.fixture(scope="module")
def begun(flags, train, tmp_path_factory):
    """Return the folder of a run of two steps, with an average."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    assert train(flags(folder, max_steps=2, ema_decay=0.9, max_eval_replies=0)) == 0
    return folder


@pytest.fixture
def run_of(begun, train, tmp_path, monkeypatch):
    """Return a function that resumes a copy of the run, or begins one, and returns the run before its next step."""

    def start(arguments):
        runs = []

        def stop(run, _):
            runs.append(run)
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(loop.Run, "go", stop)
            with pytest.raises(SystemExit):
                train(arguments)
        return runs[0]

    def resumed(**changes):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(begun, folder)
        flags = [part for name, value in changes.items() for part in (f"--{name.replace('_', '-')}", value)]
        return start(["--output-dir", folder, "--resume", "--resume-changed", *flags])

    return SimpleNamespace(start=start, resumed=resumed)


CHANGES = {
    "learning_rate": 1e-4,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-7,
    "lr_scheduler_type": "linear",
    "warmup_steps": 4,
    "max_steps": 20,
    "gradient_accumulation_steps": 4,
    "ema_decay": 0.99,
    "dropout": 0.3,
    "attention_dropout": 0.2,
    "activation_dropout": 0.1,
    "repetition_penalty": 1.5,
    "max_source_tokens": 30,
    "max_target_tokens": 12,
    "tokens_per_step": 200,
    "label_smoothing_factor": 0.2,
    "rdrop_alpha": 1.0,
    "max_grad_norm": 2.0,
    "bpe_dropout": 0.1,
    "word_swap": 0.1,
    "token_dropout": 0.1,
    "eval_steps": 7,
    "save_steps": 3,
    "early_stopping_patience": 3,
}


def effects(run):
    """What a run makes of its settings, other than weights and states."""
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in run.scheduler.optimizer.param_groups
    ]
    return {
        "groups": groups,
        "base rates": run.scheduler.base_lrs,
        "last rate": run.scheduler.get_last_lr(),
        "micro-batches": run.progress.micro_batches,
        "decay": run.averages.moving.decay,
        "config": {**run.published.config.to_dict(), "name_or_path": None},
        "replies": run.published.generation_config.to_dict(),
        "limit": run.data.tokenizer.model_max_length,
        "plan": run.gradients.plan,
        "noise": [getattr(run.gradients.noise, name) for name in ("token_dropout", "word_swap", "bpe_dropout")],
        "exchanges": [len(run.data.train_exchanges), len(run.data.eval_exchanges)],
        "steps": [run.num_steps, run.eval_steps, run.save_steps, run.plans.steps_per_epoch],
    }


def test_what_is_applied_is_as_in_a_run_that_begins_with_it(run_of, flags, tmp_path):
    resumed = run_of.resumed(**CHANGES)
    fresh = run_of.start(flags(tmp_path / "fresh", **{"max_eval_replies": 0, **CHANGES}))
    assert resumed.progress.step == 2
    for _ in range(2):
        # Without gradients it changes nothing.
        fresh.scheduler.optimizer.step()
        fresh.scheduler.step()
    expected, found = effects(fresh), effects(resumed)
    for name in expected:
        if isinstance(expected[name], dict):
            assert {key: str(value) for key, value in found[name].items()} == {
                key: str(value) for key, value in expected[name].items()
            }, name
        else:
            assert found[name] == expected[name], name
    assert resumed.progress.best_figure is None


def test_without_a_change_the_state_is_the_checkpoint_s(run_of, begun):
    state = torch.load(begun / "checkpoint-2" / "optimizer.bin")["param_groups"]
    run = run_of.resumed()
    for group, saved in zip(run.scheduler.optimizer.param_groups, state, strict=True):
        assert {name: group[name] for name in group if name != "params"} == {
            name: saved[name] for name in saved if name != "params"
        }
    saved = torch.load(begun / "checkpoint-2" / "custom_checkpoint_0.pkl", weights_only=False)
    assert {name: run.scheduler.state_dict()[name] for name in saved} == saved
    saved = torch.load(begun / "checkpoint-2" / "custom_checkpoint_1.pkl", weights_only=False)
    assert run.progress.state_dict() == saved and saved["best_step"] == 2


def test_another_metric_has_its_own_best(run_of):
    progress = run_of.resumed(metric_for_best_model="bits_per_character", max_steps=3).progress
    assert (progress.best_figure, progress.best_step) == (None, None)
    # The weights as they are now are the first to be judged.
    assert progress.evaluated_step < progress.step == 2
    # The metric needs no replies.
    assert run_of.resumed(max_eval_replies=5).progress.best_step == 2


def test_a_checkpoint_without_the_measure_has_that_of_its_settings():
    state = Progress(step=5, best_figure=-3.0, best_step=4, evaluated_step=5).state_dict()
    del state["judged_by"], state["micro_batches_set"]
    progress = Progress(micro_batches_set=7)
    progress.load_state_dict(state)
    assert progress.micro_batches_set is None
    progress.judge_by({"metric": "loss"}, before={"metric": "loss"})
    assert (progress.best_step, progress.evaluated_step) == (4, 5)
    progress.judge_by({"metric": "score"}, before={"metric": "score"})
    assert (progress.best_step, progress.evaluated_step) == (None, 4)


@pytest.mark.parametrize(("now", "expected"), [(1, 8), (2, 2)])
def test_parts_that_memory_asked_for_stay_unless_others_are_set(now, expected):
    before = TrainingSettings().changed(BEGUN_WITH, where="test")
    settings = before.changed({"gradient_accumulation_steps": now}, where="test")
    optimizer = make_optimizer(torch.nn.Linear(2, 2), settings.optimization)
    scheduler = make_scheduler("constant", optimizer, d_model=2, warmup_steps=0, num_steps=10)
    for set_before in (1, None):
        progress = Progress(step=5, micro_batches=8, micro_batches_set=set_before)
        go_on(settings, before, progress, scheduler, optimizer.param_groups)
        assert (progress.micro_batches, progress.micro_batches_set) == (expected, now)


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 1}, "The run has taken 2 steps, and --max-steps 1 allows 1"),
        ({"num_train_epochs": 0.01}, "The run has taken 2 steps, and --num-train-epochs 0.01 allows 1"),
        ({"size": "mini"}, "size: tiny before, mini now: the weights have the shape"),
        ({"ema_decay": 0}, "ema_decay: 0.9 before, 0.0 now: an average is kept from the first step on"),
        ({"minutes": 3}, "--minutes plans a new run"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(begun, train, tmp_path, capsys, changes, message, dry_run):
    folder = shutil.copytree(begun, tmp_path / "run")
    flags = [part for name, value in changes.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert train(["--output-dir", folder, "--resume", "--resume-changed", *dry_run, *flags]) == 2
    error = capsys.readouterr().err
    assert "error: " in error and message in error and "Traceback" not in error
    assert (folder / "training_settings.yaml").read_bytes() == (begun / "training_settings.yaml").read_bytes()


def test_a_dry_run_of_a_resumed_run_refuses_what_the_run_would_refuse(begun, train, tmp_path, capsys):
    folder = shutil.copytree(begun, tmp_path / "run")

    def refused(*arguments):
        found = []
        for dry_run in ([], ["--dry-run"]):
            assert train([*arguments, "--resume", *dry_run]) == 2
            found.append(capsys.readouterr().err)
        assert found[0] == found[1]
        return found[0]

    assert "There is nothing to resume" in refused("--data", "a.csv", "--output-dir", tmp_path / "none")
    assert "Say which run is to be resumed" in refused("--data", "a.csv")
    assert "learning_rate: 0.005 before, 0.1 now" in refused("--output-dir", folder, "--learning-rate", "0.1")
    other = tmp_path / "other.csv"
    other.write_text("question,answer\n" + "".join(f"{number}?,{number}!\n" for number in range(40)), "utf-8")
    assert "began with other training conversations" in refused("--output-dir", folder, "--data", other)
    (folder / "checkpoint-2" / "optimizer.bin").write_bytes(b"")
    assert "No checkpoint in" in refused("--output-dir", folder)


def test_a_dry_run_of_a_resumed_run_writes_nothing(begun, train, tmp_path, capsys):
    def content(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    folder = shutil.copytree(begun, tmp_path / "run")
    flags = ["--resume-changed", "--max-steps", "20", "--learning-rate", "1e-4", "--dry-run"]
    assert train(["--output-dir", folder, "--resume", *flags]) == 0
    assert "learning_rate" in capsys.readouterr().out
    assert content(folder) == content(begun)


def test_a_dry_run_refuses_a_folder_that_the_run_would_refuse(begun, flags, train, capsys):
    assert train([*flags(begun), "--dry-run"]) == 2
    assert "is not empty. Choose another folder" in capsys.readouterr().err


def test_an_epoch_s_number_takes_the_place_of_the_steps(run_of):
    run = run_of.resumed(num_train_epochs=3)
    assert run.num_steps == 3 * run.plans.steps_per_epoch > 2
    assert run.settings.optimization.max_steps is None


def test_another_number_of_processes_says_what_is_lost(begun):
    def process(index, count):
        accelerator = SimpleNamespace(num_processes=count, process_index=index, distributed_type="MULTI_CPU")
        accelerator.load_state = lambda _: torch.manual_seed(0)
        return load_checkpoint(accelerator, begun / "checkpoint-2", seed=0), torch.rand(1).item()

    (none, first), *others = [process(0, 1), process(0, 3), process(1, 3), process(2, 3)]
    assert none == [] and others[0][1] == first
    assert len({number for _, number in others}) == 3
    for (problem,), _ in others:
        assert "was written by 1 process, and 3 now go on from it: dropout" in problem
