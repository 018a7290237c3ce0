import gzip
import importlib
import json
import random
import re
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """Return a function that imports a script of the benchmarks, which are not installed."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module
    torch.set_num_threads(num_threads)
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def run(benchmark, conversations_file, tmp_path):
    """Return a function that runs a benchmark for a moment and returns the figures that it writes."""

    def make(name, *flags):
        # Within a process accelerate keeps the precision and the device of what came before.
        AcceleratorState._reset_state(reset_partial_state=True)
        task = ["--data", str(conversations_file), "--size", "tiny", "--vocab-size", "600", "--rounds", "2"]
        moment = ["--seconds", "0", "--warmup-seconds", "0", "--output-file", str(tmp_path / "figures.json")]
        assert benchmark(name).main([*task, *moment, *flags]) == 0
        return json.loads((tmp_path / "figures.json").read_text("utf-8"))

    return make


def test_training_beside_every_peer(run, capsys):
    flags = ["--batching", "random", "buckets", "--peer-batch-size", "8", "--tokens-per-step", "80", "--markdown"]
    contestants = run("train", *flags)["contestants"]
    printed = capsys.readouterr().out
    bare = {
        *("marian-sdpa", "marian-sdpa-float32", "marian-eager", "bart-sdpa", "bart-eager"),
        *("torch-tied", "torch-untied"),
    }
    ours = {"chatformer", "chatformer-large", "seq2seq-trainer", "seq2seq-trainer-float32"}
    assert set(contestants) == ours | bare | {f"{name}, buckets" for name in bare}
    for name, found in contestants.items():
        assert f"\n| {name} | " in printed
        assert len(found["target_tokens_per_second"]) == 2 and min(found["target_tokens_per_second"]) > 0
        assert found["share_of_the_matrix_rate"]["minimum"] > 0
        assert (found["bytes_kept_per_target_token"] is None) == name.startswith("seq2seq-trainer")
        # By pairs, which also of two rounds is not the ratio of the medians.
        pairs = zip(
            contestants["chatformer"]["target_tokens_per_second"], found["target_tokens_per_second"], strict=True
        )
        median = statistics.median(first / other for first, other in pairs)
        assert found["times_slower_than_the_first"]["median"] == pytest.approx(median)
    sizes = {name: found["parameters"] for name, found in contestants.items()}
    assert sizes["chatformer"] == sizes["marian-sdpa"] == sizes["seq2seq-trainer"] == sizes["torch-tied"]


def test_what_a_step_keeps_is_counted_once_and_without_weights(benchmark):
    model = torch.nn.Linear(4, 4, bias=False)
    x = torch.randn(6, 4, requires_grad=True)

    def take_step():
        y = model(x)
        # The product keeps x and the weights; the others keep y, whole and in part.
        (y.square().sum() + y[:3].square().sum()).backward()
        return np.array([0, 1])

    contestant = benchmark("train").StepByStep(model, SimpleNamespace(target_lengths=np.array([1, 2, 9])), take_step)
    assert contestant.kept_per_token() == 2 * x.nbytes / 3


def test_training_in_bf16(run):
    names = ["marian-eager", "marian-sdpa-float32", "chatformer"]
    figures = run("train", "--mixed-precision", "bf16", "--peer-batch-size", "8", "--contestants", *names)
    assert figures["precision"] == "bf16"
    assert figures["contestants"]["marian-eager"]["times_slower_than_the_first"]["maximum"] == 1


def test_training_of_recurrent_models(run):
    contestants = run("recurrent", "--tokens-per-step", "80")["contestants"]
    assert list(contestants) == ["chatformer", "input-feeding", "seq2seq", "torch-gru"]
    assert all(min(found["target_tokens_per_second"]) > 0 for found in contestants.values())
    sizes = {name: found["parameters"] for name, found in contestants.items()}
    assert sizes["seq2seq"] == sizes["torch-gru"] < sizes["input-feeding"] < sizes["chatformer"]


def test_the_trainer_counts_useful_tokens_alone_and_goes_on_to_other_exchanges(benchmark, conversations_file):
    from chatformer.data.preparation import prepare_data
    from chatformer.training.building import new_model

    AcceleratorState._reset_state(reset_partial_state=True)
    script, text = benchmark("train"), benchmark("text")
    plain = text.training_settings(text.TextSettings(data=(str(conversations_file),), size="tiny", vocab_size=600))
    plain = plain.changed({"mixed_precision": "no"}, where="test")
    prepared = prepare_data(plain)
    ours = new_model(plain.model, prepared.tokenizer, max_new_tokens=8)
    contestant = script.UnderTrainer(script.peer_model("seq2seq-trainer", ours), prepared, plain, 16, bf16=False)
    turns = [contestant.train(warmup_seconds=0, seconds=0) for _ in range(2)]
    exchanges = prepared.train_exchanges
    there = set(zip(exchanges.source_lengths.tolist(), exchanges.target_lengths.tolist(), strict=True))
    for turn in turns:
        assert len(turn.source_lengths) == 16
        assert set(zip(turn.source_lengths.tolist(), turn.target_lengths.tolist(), strict=True)) <= there
    assert turns[0].source_lengths.tolist() != turns[1].source_lengths.tolist()
    # Where all are of one length there is no padding to be told from them.
    assert len(set(turns[0].target_lengths.tolist())) > 1


@pytest.mark.slow
def test_multi30k_is_made_diverse_and_what_is_done_is_not_done_again(benchmark, tmp_path, capfd):
    data, output = tmp_path / "data", tmp_path / "runs"
    data.mkdir()
    for part, count in {"train": 60, "val": 8, "test_2016_flickr": 8}.items():
        for side, words in {"en": "one two three four", "de": "eins zwei drei vier"}.items():
            lines = [" ".join(random.Random(number).sample(words.split() * 3, 5)) for number in range(count)]
            packed = gzip.compress("".join(f"{line} .\n" for line in lines).encode())
            (data / f"{part}.lc.norm.tok.{side}.gz").write_bytes(packed)
    command = ["--data", str(data), "--output-dir", str(output), "--max-steps", "3"]
    main = benchmark("multi30k").main
    assert main(command) == 0
    for number in (1, 2):
        sides = [(output / f"diverse-{number}.{side}").read_text("utf-8").splitlines() for side in ("en", "de")]
        for side, same in zip(sides, ((0, 1, 3), (0, 2, 4)), strict=True):
            parts = [side[start : start + 60] for start in range(0, len(side), 60)]
            assert len(parts) == 1 + 2 * number
            # What was there, and of each round a translation.
            assert {part for part, lines in enumerate(parts) if lines == parts[0]} == {*same[: 1 + number]}
            assert len({tuple(part) for part in parts}) == 1 + number
    # The second round goes on where the first one ended.
    steps = [
        json.loads(line)["step"] for line in (output / "model-2" / "training_log.jsonl").open("rb") if b"step" in line
    ]
    assert max(steps) == 6
    assert json.loads((output / "model-2" / "evaluation.json").read_text("utf-8"))["exchanges"]["all"] == 8
    assert "$ chatformer train --recipe" in capfd.readouterr().out
    (output / "model-2" / "evaluation.json").unlink()
    assert main(command) == 0
    shown = [line for line in capfd.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line.split()[2] for line in shown] == ["train"] * 6 + ["evaluate"]
    assert all("--resume" in line for line in shown[:6])
    assert main(["--data", str(tmp_path), "--output-dir", str(output)]) == 2
    assert "has no train.lc.norm.tok.en, nor train.lc.norm.tok.en.gz." in capfd.readouterr().err


def test_operations_are_those_that_torch_counts(benchmark):
    machine = benchmark("machine")
    config = ChatformerConfig(vocab_size=50, d_model=16, d_ff=24, num_heads=2, encoder_layers=3, decoder_layers=2)
    model = ChatformerForConditionalGeneration(config)
    model.set_attn_implementation("eager")
    num_exchanges, source_length, target_length = 4, 7, 5
    source = torch.randint(3, 50, (num_exchanges, source_length))
    target = torch.randint(3, 50, (num_exchanges, target_length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=source, labels=target).loss.backward()
    sources, targets = np.full(num_exchanges, source_length), np.full(num_exchanges, target_length)
    useful = 3 * (machine.encoder_flops(config, sources) + machine.decoder_flops(config, sources, targets))
    # The eager attention also computes what the mask then hides.
    hidden_pairs = num_exchanges * target_length * (target_length - 1) // 2
    assert counter.get_total_flops() == useful + 3 * 2 * 2 * config.d_model * config.decoder_layers * hidden_pairs


def test_rounds_take_turns_and_are_turned_round(benchmark):
    assert list(benchmark("machine").rounds("abc", 3)) == [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]]


def test_replies_beside_every_peer(run, trained):
    flags = ["--num-new-tokens", "6", "--batch-sizes", "1", "8"]
    contestants = [
        *("chatformer", "chatformer-static", "marian-sdpa", "marian-eager", "bart-sdpa"),
        *("ctranslate2-float32", "ctranslate2-int8"),
    ]
    searches = run("generate", "--model", str(trained), *flags, "--contestants", *contestants)["searches"]
    assert [(found["num_beams"], found["batch_size"]) for found in searches] == [(1, 1), (1, 8), (4, 1), (4, 8)]
    for search in searches:
        assert list(search["contestants"]) == contestants
        for name, found in search["contestants"].items():
            assert (found["share_of_equal_replies"] is None) == (name == "bart-sdpa")
            if name not in ("bart-sdpa", "ctranslate2-int8"):
                assert found["share_of_equal_replies"] == 1
            for milliseconds, speed in zip(found["milliseconds_per_token"], found["tokens_per_second"], strict=True):
                assert speed == pytest.approx(1000 * search["batch_size"] / milliseconds)


def test_replies_of_random_weights_with_one_contestant(run):
    (search,) = run(
        *("generate", "--contestants", "chatformer", "--num-beams", "1", "--batch-sizes", "2", "--num-new-tokens", "3")
    )["searches"]
    assert search["contestants"]["chatformer"]["times_slower_than_the_first"]["maximum"] == 1


def test_the_way_of_the_data(benchmark, conversations_file, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    flags = ["--data", str(conversations_file), "--size", "tiny", "--vocab-size", "600", "--output-file", str(figures)]
    assert benchmark("pipeline").main([*flags, "--num-pairs", "300", "--num-steps", "2"]) == 0
    assert "300 pairs" in capsys.readouterr().out
    stages = json.loads(figures.read_text())["stages"]
    assert list(stages)[:3] == ["read and split", "tokenize", "plan an epoch"]
    assert all(found["seconds"] > 0 and found["peak_mib"] >= 0 for found in stages.values())


@pytest.mark.parametrize(
    ("replies", "message"),
    [([[1, 2]], "must have 3 tokens, but marian-sdpa gave replies of [2]"), ([[1, 2, 4]], "only 0% are")],
    ids=["shorter", "other"],
)
def test_who_does_other_work_is_refused(benchmark, replies, message):
    script = benchmark("generate")
    repliers = {"chatformer": lambda *_: [[1, 2, 3]], "marian-sdpa": lambda *_: replies}
    with pytest.raises(ValueError, match=re.escape(message)):
        script.equal_replies(repliers, [[5]], script.Settings(num_new_tokens=3), 1)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train", ["--rounds", "0"], "--rounds must be at least 1, but it is 0"),
        ("train", ["--peer-batch-size", "0"], "--peer-batch-size must be at least 1, but it is 0"),
        ("train", ["--data", "nowhere.csv"], "nowhere.csv"),
        ("generate", ["--seconds", "-1"], "--seconds must be at least 0, but it is -1"),
        ("generate", ["--num-beams", "0"], "--num-beams must be at least 1, but it is 0"),
        ("generate", ["--model", "nowhere"], "nowhere"),
        ("pipeline", ["--num-pairs", "0"], "--num-pairs must be at least 1, but it is 0"),
    ],
    ids=str,
)
def test_mistakes_are_told_of(benchmark, capsys, name, flags, message):
    assert benchmark(name).main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


@pytest.mark.slow
def test_servers_under_load(benchmark, tmp_path, capsys):
    flags = ["--contestants", "one-by-one", "grouped", "--rounds", "1", "--seconds", "2", "--warmup-seconds", "1"]
    figures = tmp_path / "figures.json"
    assert benchmark("serve").main([*flags, "--num-clients", "4", "--output-file", str(figures)]) == 0
    contestants = json.loads(figures.read_text("utf-8"))["contestants"]
    assert set(contestants) == {"one-by-one", "grouped"}
    for found in contestants.values():
        assert min(found["requests_per_second"] + found["streamed_requests_per_second"]) > 0
        assert found["first_text_seconds"][0] > 0 and found["p50_seconds"][0] <= found["p99_seconds"][0]
        assert found["memory_bytes"][0] > 2**20
    assert "grouped" in capsys.readouterr().out
