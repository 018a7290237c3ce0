"""
The ladder: sequence to sequence, Bahdanau's attention, the Transformer, sparse attention, on the same data.

    python benchmarks/ladder.py --quick --output-dir runs/ladder
    python benchmarks/ladder.py --data ChatbotData.csv --output-dir runs/ladder-songys --seeds 1 2
    python benchmarks/ladder.py --data multi30k --output-dir runs/ladder-multi30k --seeds 1 2

Every rung has the same tokenizer, training, validation and test data, and the same steps; learning rate, dropout and
size are those of its recipe. Each rung is trained by `chatformer train` and measured by `chatformer evaluate`; then all
generate in turn, which gives their speed. The folder gets ladder.md, a table, ladder.json, ladder.png, the quality by
the length of the source (Figure 2 of Bahdanau et al., 2014, arXiv:1409.0473), and attention.png, where each rung looked
for the same sentence.

--quick trains small models on the corpus that comes with chatformer. Multi30k's folder has train, val and
test_2016_flickr, each as NAME.lc.norm.tok.en and .de, with or without .gz. What is finished in the folder is not
repeated, so after Ctrl-C the same command continues. Needs `chatformer[metrics,plots]`.
"""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ladder_report import attention_picture, length_picture, markdown, results_by_length
from machine import rounds, run, spread
from multi30k import chatformer, found

from chatformer.chat.chatbot import Chatbot
from chatformer.configuration.replies import ReplySettings
from chatformer.configuration.training import TrainingSettings
from chatformer.conversation import encode_conversation
from chatformer.evaluation.doctor.run_log import RunLog
from chatformer.evaluation.figures import has_metrics
from chatformer.evaluation.plots.drawing import check_format
from chatformer.storage.run_folder import Records

RECIPES = Path(__file__).with_name("recipes")
RUNGS = ("seq2seq", "bahdanau", "transformer", "strided")
MULTI30K_PLAN = (
    *("--num-train-epochs", "28", "--tokens-per-step", "4000"),
    *("--eval-steps", "1200", "--save-steps", "1200"),
)
"""Less than half of the recipe's epochs, in smaller steps: eight trainings fit into a night of two cores."""
ROUNDS = 5
"""How often each rung generates to be timed."""
NUM_TIMED = 128
"""Replies that are timed, 32 at a time."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train every rung of the ladder on the same data, and compare them in a table and in pictures."""

    output_dir: Path
    """Folder of the runs and of the results."""
    data: Path | None = None
    """ChatbotData.csv of songys/Chatbot_data, or the folder of Multi30k."""
    quick: bool = False
    """Take the corpus that comes with chatformer, and small models."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of the first weights, of dropout and of the order of the data; each rung is trained once with each."""
    rungs: tuple[str, ...] = RUNGS
    """The rungs, in their order."""
    max_steps: int | None = None
    """Steps of every rung, instead of those of the recipe, for a trial run in a folder of its own."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data, the recipes that are tuned for it, and how replies to it are measured."""

    title: str
    recipe: str
    """The Transformer's."""
    recurrent_recipe: str
    stride: int
    """Of the strided attention, near the root of the lengths."""
    metric: str
    sentence: str
    """What the pictures of the attention are drawn for."""
    training: tuple[str | Path, ...] = ()
    """Flags of the data, for `chatformer train`."""
    of_recurrent: tuple[str, ...] = ()
    """Flags of the recurrent rungs, for `chatformer train`."""
    of_transformers: tuple[str, ...] = ()
    """Flags of the rungs without recurrence, for `chatformer train`."""
    max_steps: int | None = None
    """Steps of every rung, unless they are the recipe's."""
    evaluation: tuple[str | Path, ...] = ()
    """Flags of `chatformer evaluate`; without --data it measures on the data that the run was validated on."""


def task_of(settings: Settings) -> Task:
    """What the settings ask for; the files are looked for, and songys is split into its parts."""
    data = settings.data
    if (data is None) != settings.quick:
        raise ValueError("Give either --quick, or --data with ChatbotData.csv or with the folder of Multi30k.")
    if data is None:
        return Task(
            title="the starter corpus",
            recipe="quickstart",
            recurrent_recipe=str(RECIPES / "quickstart-bahdanau.yaml"),
            stride=4,
            metric="chrf",
            sentence="오늘 저녁 뭐 먹을까?",
            # Questions alone: behind other topics they take a recurrent network too long for a quick look.
            training=("--other-topics-fraction", "0"),
            # Strided attention alternates by layer.
            of_transformers=("--encoder-layers", "2"),
            max_steps=3500,
        )
    if data.is_dir():
        train, validation, test = (
            tuple(found(data, part, side) for side in ("en", "de")) for part in ("train", "val", "test_2016_flickr")
        )
        return Task(
            title="Multi30k, English to German",
            recipe=str(RECIPES / "multi30k.yaml"),
            recurrent_recipe=str(RECIPES / "multi30k-bahdanau.yaml"),
            stride=4,
            metric="bleu",
            sentence="a man in an orange hat starring at something .",
            training=("--data", *train, "--validation-data", *validation, *MULTI30K_PLAN),
            of_recurrent=("--warmup-steps", "400"),
            # The recipe's 4e-3 is for steps of twice the size; with 400 steps of warm-up it never listened.
            of_transformers=("--learning-rate", "2e-3", "--warmup-steps", "1200"),
            evaluation=("--data", *test, "--num-beams", "5", "--bleu-tokenize", "none"),
        )
    parts = settings.output_dir / "data"
    if not (parts / "training.csv").is_file():
        script = str(Path(__file__).with_name("songys.py"))
        subprocess.run([sys.executable, script, "--data", str(data), "--output-dir", str(parts)], check=True)
    return Task(
        title="songys/Chatbot_data",
        recipe="korean",
        recurrent_recipe=str(RECIPES / "songys-bahdanau.yaml"),
        stride=4,
        metric="chrf",
        sentence="오늘은 하루 종일 너무 힘들었어",
        training=("--data", parts / "training.csv", "--validation-data", parts / "validation.csv"),
        evaluation=("--data", parts / "test.csv"),
    )


def flags_of(rung: str, task: Task) -> tuple[str, ...]:
    """What makes a rung of the recipes, for `chatformer train`."""
    if rung in ("seq2seq", "bahdanau"):
        return "--recipe", task.recurrent_recipe, "--architecture", rung, *task.of_recurrent
    full = ("--recipe", task.recipe, *task.of_transformers)
    return full if rung == "transformer" else (*full, "--self-attention", "strided", "--stride", str(task.stride))


def check_rungs(rungs: Sequence[str]) -> tuple[str, ...]:
    """The rungs that this version has; raise a `ValueError` for an unknown one."""
    for rung in rungs:
        if rung not in RUNGS:
            raise ValueError(f"--rungs {rung}: there is no such rung. The rungs are {', '.join(RUNGS)}.")
    has_sparse = "self_attention" in TrainingSettings().flat()
    return tuple(rung for rung in rungs if rung != "strided" or has_sparse)


def climb(settings: Settings) -> None:
    """Train and measure what is not done yet, and write the results."""
    if not settings.seeds:
        raise ValueError("Give --seeds at least one seed.")
    if not has_metrics():
        raise ValueError("BLEU and chrF are missing. Run: pip install 'chatformer[metrics,plots]'")
    # Not after hours of training.
    check_format(settings.output_dir / "ladder.png")
    rungs = check_rungs(settings.rungs)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    task = task_of(settings)
    max_steps = settings.max_steps or task.max_steps
    steps = () if max_steps is None else ("--max-steps", str(max_steps))
    for seed in settings.seeds:
        for rung in rungs:
            folder = settings.output_dir / f"{rung}-{seed}"
            if (folder / "evaluation.json").is_file():
                continue
            if any(folder.glob("checkpoint-*")):
                chatformer("train", "--output-dir", folder, "--resume")
            else:
                own = (*flags_of(rung, task), *task.training, "--seed", str(seed), *steps)
                chatformer("train", *own, "--output-dir", folder, "--overwrite-output-dir")
            chatformer("evaluate", folder, *task.evaluation)
    folders = {rung: [settings.output_dir / f"{rung}-{seed}" for seed in settings.seeds] for rung in rungs}
    results = {rung: [figures(folder) for folder in of_seeds] for rung, of_seeds in folders.items()}
    chatbots = {rung: Chatbot.from_pretrained(str(of_seeds[0]), device="cpu") for rung, of_seeds in folders.items()}
    speeds = generation_speeds(chatbots, items_of(folders[rungs[0]][0]))
    by_length = results_by_length(
        {rung: [items_of(folder) for folder in of_seeds] for rung, of_seeds in folders.items()}, task.metric
    )
    write(settings, task, results, speeds, by_length)
    for folder in itertools.chain.from_iterable(folders.values()):
        if never_listened(folder):
            print(f"warning: {folder} never listened to its source: its row says nothing of its rung.", file=sys.stderr)
    attention_picture(chatbots, task.sentence, settings.output_dir / "attention.png")
    length_picture(by_length, task.metric, task.title, settings.output_dir / "ladder.png")


def items_of(folder: Path) -> list[dict[str, Any]]:
    """Each exchange of the test data with the reply of the model in `folder`."""
    return Records.read(folder).evaluation["items"]


def never_listened(folder: Path) -> bool:
    """True if the true source told a model no more than another one, at any of its evaluations."""
    log = RunLog.of(folder)
    return log is not None and log.never_listened


def figures(folder: Path) -> dict[str, float]:
    """What training and evaluation wrote into a model's folder."""
    records = Records.read(folder)
    overview, log, measured = records.record["overview"], records.log, records.evaluation["figures"]["all"]
    return {
        "parameters": overview["parameters"],
        "steps": overview["steps"],
        "training_tokens_per_second": [line for line in log if "tokens_per_second" in line][-1]["tokens_per_second"],
        "minutes": log[-1]["seconds"] / 60,
        **{name: measured[name] for name in ("bits_per_character", "bleu", "chrf", "exact_match")},
    }


def generation_speeds(chatbots: dict[str, Chatbot], items: list[dict[str, Any]]) -> dict[str, float]:
    """Greedy tokens a second of each rung, the median of several turns."""
    drawn = np.random.default_rng(0).permutation(len(items))[:NUM_TIMED]
    histories = [items[index]["history"] for index in drawn]
    search = ReplySettings(max_new_tokens=64).search()
    rates: dict[str, list[float]] = {rung: [] for rung in chatbots}
    for number, names in enumerate(rounds(chatbots, ROUNDS + 1)):
        for rung in names:
            chatbot = chatbots[rung]
            sources = [encode_conversation(chatbot.tokenizer, each, chatbot.max_source_tokens) for each in histories]
            began, num_tokens = time.perf_counter(), 0
            for first in range(0, len(sources), 32):
                replies = chatbot.engine.generate(sources[first : first + 32], search)
                num_tokens += sum(map(len, replies))
            # The first round fills caches.
            if number:
                rates[rung].append(num_tokens / (time.perf_counter() - began))
    return {rung: spread(of_turns).median for rung, of_turns in rates.items()}


def write(
    settings: Settings,
    task: Task,
    results: dict[str, list[dict[str, float]]],
    speeds: dict[str, float],
    by_length: dict[str, dict[str, float]],
) -> None:
    """Write the results as JSON and as Markdown, and print the Markdown."""
    report = {
        "data": task.title,
        "seeds": settings.seeds,
        "rungs": results,
        "generated_tokens_per_second": speeds,
        f"{task.metric}_by_words_of_the_source": by_length,
    }
    (settings.output_dir / "ladder.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    text = markdown(task.title, task.metric, settings.seeds, results, speeds, by_length)
    (settings.output_dir / "ladder.md").write_text(text, "utf-8")
    print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Climb the ladder as the command line says; return the exit status."""
    # Ctrl-C is for the command that runs, which may have something to save.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return run(climb, Settings, arguments, prog="python benchmarks/ladder.py", description=__doc__)
    except subprocess.CalledProcessError as error:
        # The command has said what is wrong.
        return error.returncode
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
