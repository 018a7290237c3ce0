"""What `accelerate launch` starts: several processes train what one trains, stop together and go on together."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import AutoModelForSeq2SeqLM

import chatformer.training
from chatformer.training.checkpoints import checkpoints, damage

FOLDER = Path(chatformer.training.__file__).parent
LAUNCH = FOLDER / "launch"
ACCELERATE = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch")

# Several runs one after the other, as starting takes longer than training: each is a command line and the step at
# which the second process gets SIGTERM, or none. accelerate shards on GPUs alone, so it is told that these CPUs were
# some; what shards and trains is all its own and torch's.
RUNS = """
import json, os, signal, sys
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from chatformer.training.run import Run
from chatformer.training.train import main

take_step = Run.take_step

def take_step_and_stop(run):
    take_step(run)
    if run.progress.step == stop_at and run.accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGTERM)

Run.take_step = take_step_and_stop
# The processes stay connected from one run to the next: torch cannot safely connect them anew.
torch.distributed.destroy_process_group = lambda group: None
for arguments, stop_at in json.loads(sys.argv[1]):
    AcceleratorState._reset_state(reset_partial_state=True)
    if os.environ.get("ACCELERATE_USE_FSDP"):
        PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    status = main(arguments)
    assert status == (0 if stop_at is None else 130), status
"""

# One machine that stands for two. As SLURM's own, it passes signals on to its tasks.
SRUN = """#!/bin/bash
shift
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
trap 'kill -TERM $first $second' TERM
wait $first
wait $first && wait $second
"""

SCONTROL = """#!/bin/bash
case $1 in
    show) echo 127.0.0.1 ;;
    requeue) echo "$2" > "$REQUEUED" ;;
esac
"""


def losses_of(folder):
    lines = (folder / "training_log.jsonl").read_text("utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def record_of(folder):
    return json.loads((folder / "training_record.json").read_text("utf-8"))


def weights_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def assert_same_run(one, other):
    assert losses_of(one) == losses_of(other)
    assert record_of(one)["best"] == record_of(other)["best"]
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_equal_to_one_process(folder, alone):
    assert record_of(folder)["overview"]["processes"] == 2
    assert losses_of(folder) == pytest.approx(losses_of(alone), rel=2e-5)
    assert record_of(folder)["best"]["eval_loss"] == pytest.approx(record_of(alone)["best"]["eval_loss"], rel=2e-5)
    expected, found = weights_of(alone), weights_of(folder)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        # The bias of the keys moves all scores of a query alike: its gradient is rounding, which AdamW magnifies.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def plan():
    return {"max_steps": 50, "eval_steps": 25, "dropout": 0, "ema_decay": 0.9, "save_total_limit": 3}


@pytest.fixture(scope="module")
def alone(plan, flags, train, tmp_path_factory):
    """Return the folder of a run in one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train(flags(folder, **plan)) == 0
    return folder


@pytest.fixture
def in_two_processes(plan, flags, environment, tmp_path):
    """Return a function that runs in two processes, and once more with a stop and a resume; it returns both folders."""

    def run(config_file):
        whole, halves = tmp_path / "whole", tmp_path / "halves"
        begun = flags(halves, **plan)
        runs = [(flags(whole, **plan), None), (begun, 20), ([*begun, "--resume"], None)]
        script = tmp_path / "runs.py"
        script.write_text(RUNS)
        command = [
            *ACCELERATE,
            *("--config_file", str(LAUNCH / config_file), "--num_processes", "2", str(script)),
            json.dumps([[list(map(str, arguments)), stop_at] for arguments, stop_at in runs]),
        ]
        # That there is no GPU is to be found out, not told.
        unaided = {name: value for name, value in environment.items() if name != "ACCELERATE_USE_CPU"}
        process = subprocess.run(command, env=unaided, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return whole, halves

    return run


def test_parallel_processes_train_as_one_and_stop_together(in_two_processes, alone):
    whole, halves = in_two_processes("ddp.yaml")
    assert_equal_to_one_process(whole, alone)
    # One of them was asked to stop, at a step at which nothing else is saved.
    assert (halves / "checkpoint-20").is_dir()
    assert_same_run(whole, halves)


def test_sharded_processes_train_as_one_and_stop_together(in_two_processes, alone):
    whole, halves = in_two_processes("fsdp2.yaml")
    assert_equal_to_one_process(whole, alone)
    assert (halves / "checkpoint-20").is_dir()
    assert_same_run(whole, halves)

    shares = checkpoints(whole)[0] / "pytorch_model_fsdp_0"
    sizes = [(shares / f"__{process}_0.distcp").stat().st_size for process in (0, 1)]
    assert max(sizes) < 0.75 * sum(sizes)
    model = AutoModelForSeq2SeqLM.from_pretrained(whole)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.slow
def test_a_job_of_two_machines_that_runs_out_of_time_goes_on_when_its_turn_comes_again(
    plan, flags, environment, alone, tmp_path
):
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    job = environment | {
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
    }
    folder = tmp_path / "run"
    settings = flags("", **plan)
    at = settings.index("--output-dir")
    command = ["bash", str(LAUNCH / "slurm.sh"), str(folder), *settings[:at], *settings[at + 2 :]]

    process = subprocess.Popen(command, env=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = folder / "training_log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text("utf-8").count("\n") > 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert (tmp_path / "requeued").read_text().strip() == job["SLURM_JOB_ID"]
    record, (last, *_) = record_of(folder), checkpoints(folder)
    assert not record["finished"] and 5 < record["steps_taken"] == len(losses_of(folder)) < 50
    assert last.name == f"checkpoint-{record['steps_taken']}" and damage(last) is None
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= {path.name for path in last.iterdir()}

    process = subprocess.run(command, env=job | {"SLURM_RESTART_COUNT": "1"}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert record_of(folder)["finished"]
    assert_equal_to_one_process(folder, alone)


def test_the_folder_trains_in_a_checkout_and_says_how_many_processes_it_has(flags, environment, tmp_path):
    # accelerate leaves it to mpirun to start several processes on CPUs.
    command = [*ACCELERATE, "--num_processes", "2", "--cpu", "training", *flags(tmp_path / "run", max_steps=2)]
    process = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert record_of(tmp_path / "run")["overview"]["processes"] == 1
    assert "warning: this is the only process." in process.stderr and "--multi_gpu" in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", [["training"], ["-m", "chatformer.training"]], ids=["folder", "module"])
def test_the_folder_and_the_module_train_in_two_processes(script, flags, environment, tmp_path):
    command = [*ACCELERATE, "--num_processes", "2", "--multi_gpu", *script, *flags(tmp_path / "run", max_steps=2)]
    process = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    record = record_of(tmp_path / "run")
    assert record["finished"] and record["overview"]["processes"] == 2
    assert "only process" not in process.stderr


def test_files_of_the_folder_that_is_run_hide_no_modules(monkeypatch):
    found = {}

    def main(program):
        found.update(program=program, path=list(sys.path), hidden=find_spec("averaging"))
        return 0

    monkeypatch.setattr("chatformer.training.train.main", main)
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(FOLDER), run_name="__main__")
    assert str(FOLDER) not in found["path"] and found["hidden"] is None


@pytest.mark.parametrize("is_another", [False, True])
def test_the_folder_says_that_its_package_is_not_installed(tmp_path, is_another):
    expected = "chatformer is not installed:"
    if is_another:
        (tmp_path / "chatformer" / "training").mkdir(parents=True)
        for folder in (tmp_path / "chatformer", tmp_path / "chatformer" / "training"):
            (folder / "__init__.py").touch()
        expected = f"chatformer is installed from {tmp_path / 'chatformer'}, not from this checkout:"
    # Without the packages that are installed.
    command, environment = [sys.executable, "-S", "training"], os.environ | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True)
    advice = f"install it with `pip install -e {FOLDER.parent}`."
    assert (process.returncode, process.stderr) == (2, f"error: {expected} {advice}\n")


@pytest.mark.parametrize(
    ("config_file", "distributed_type", "section"),
    [
        ("ddp.yaml", "MULTI_GPU", None),
        ("fsdp2.yaml", "FSDP", "fsdp_config"),
        ("deepspeed_zero2.yaml", "DEEPSPEED", "deepspeed_config"),
    ],
)
def test_accelerate_understands_each_configuration(config_file, distributed_type, section):
    config = load_config_from_file(str(LAUNCH / config_file))
    assert config.distributed_type == distributed_type
    # It would take a misspelt name for a setting of its own, and leave it aside.
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert section is None or getattr(config, section).keys() <= known.keys()
