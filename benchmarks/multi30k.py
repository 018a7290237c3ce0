"""
Multi30k English to German: the recipe, on more diverse training data.

    python benchmarks/multi30k.py --data multi30k --output-dir runs/multi30k

`benchmarks/recipes/multi30k.yaml` trains a model of each direction, and both translate the training data: each sentence
gets a second translation, and each translation a second source. A model of the same size is trained on all of it (data
diversification: Nguyen et al., 2020, arXiv:1911.01986). In a second round two other models translate the data again,
the model continues on the larger data, and is evaluated. No other data is used, and nothing is chosen by the test set.
Needs `chatformer[metrics,ctranslate2]`, and five to six hours of one core.

--data is a folder with train, val and test_2016_flickr, each as NAME.lc.norm.tok.en and .de, with or without .gz.
Each step is a command, which is shown. Finished steps are skipped, so after Ctrl-C the same command continues.
"""

import gzip
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

RECIPE = Path(__file__).with_name("recipes") / "multi30k.yaml"

SHORTER = ("--num-train-epochs", "40")
ROUNDS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((), SHORTER),
    ((*SHORTER, "--seed", "1"), (*SHORTER, "--seed", "1")),
)
"""Flags of the models that translate, forward and backward, after the recipe's: they need fewer epochs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Diversify the training data and train the model on it, twice, and evaluate it."""

    data: Path
    """Folder of the data."""
    output_dir: Path
    """Folder of all models and of the translated data."""
    max_steps: int | None = None
    """Most steps of each model in a round, for a trial run in a folder of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the steps that are not done yet; return the exit status."""
    settings = tyro.cli(Settings, args=arguments, prog="python benchmarks/multi30k.py", description=__doc__)
    # Ctrl-C is for the command that runs, which may have something to save.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        diversify_and_train(settings)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        # The command has said what is wrong.
        return error.returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return 0


def diversify_and_train(settings: Settings) -> None:
    folder = settings.output_dir
    (english, german), validation, test = (
        [found(settings.data, part, side) for side in ("en", "de")] for part in ("train", "val", "test_2016_flickr")
    )
    folder.mkdir(parents=True, exist_ok=True)

    def steps(rounds: int) -> tuple[str, ...]:
        return () if settings.max_steps is None else ("--max-steps", str(rounds * settings.max_steps))

    sources, targets = [english], [german]
    model: Path | None = None
    for number, (ahead, back) in enumerate(ROUNDS, start=1):
        forward = train(folder / f"forward-{number}", [english, german], validation, *ahead, *steps(1))
        backward = train(folder / f"backward-{number}", [german, english], validation[::-1], *back, *steps(1))
        targets += [translate(forward, english, folder / f"translated-{number}.de"), german]
        sources += [english, translate(backward, german, folder / f"translated-{number}.en")]
        diverse = [joined(sources, folder / f"diverse-{number}.en"), joined(targets, folder / f"diverse-{number}.de")]
        # A translation may be empty, which is no pair.
        final = ("--num-train-epochs", "24", "--skip-bad-rows", *steps(number))
        model = train(folder / f"model-{number}", diverse, validation, *final, start=model)
    figures = ("--num-beams", "5", "--bleu-tokenize", "none")
    chatformer("evaluate", folder / f"model-{len(ROUNDS)}", "--data", *test, *figures)


def found(folder: Path, part: str, side: str) -> Path:
    """The path of one language of a part, compressed or not."""
    plain = folder / f"{part}.lc.norm.tok.{side}"
    for file in (plain, plain.with_name(f"{plain.name}.gz")):
        if file.is_file():
            return file
    raise ValueError(f"--data {folder} has no {plain.name}, nor {plain.name}.gz.")


def train(folder: Path, data: list[Path], validation: list[Path], *more: str, start: Path | None = None) -> Path:
    """
    Train a model by the recipe, or continue its training; return its folder.

    With a `start`, that model's training continues, on this data and in this folder.
    """
    if start is not None:
        if not folder.exists():
            copy = folder.with_name(f"{folder.name}.tmp")
            shutil.copytree(start, copy, dirs_exist_ok=True)
            copy.rename(folder)
        chatformer("train", "--output-dir", folder, "--resume", "--resume-changed", "--data", *data, *more)
    elif any(folder.glob("checkpoint-*")):
        chatformer("train", "--output-dir", folder, "--resume")
    else:
        pairs: tuple[str | Path, ...] = ("--data", *data, "--validation-data", *validation)
        chatformer("train", "--recipe", RECIPE, *pairs, "--output-dir", folder, "--overwrite-output-dir", *more)
    return folder


def translate(model: Path, source: Path, file: Path) -> Path:
    """Translate each line of a file with five beams; return the file of translations."""
    exported = model.with_name(f"{model.name}-ctranslate2")
    if not exported.exists():
        chatformer("export", model, "--to", "ctranslate2", "--output-dir", exported)
    if not file.exists():
        search = ("--engine", "ctranslate2", "--num-beams", "5")
        chatformer("generate", exported, *search, "--data", source, "--output-file", file)
    return file


def joined(files: list[Path], file: Path) -> Path:
    """Concatenate files; return the new file."""
    with file.open("wb") as joint:
        for each in files:
            joint.write(gzip.decompress(each.read_bytes()) if each.suffix == ".gz" else each.read_bytes())
    return file


def chatformer(*arguments: object) -> None:
    """Run a command of chatformer, and show it."""
    words = [str(argument) for argument in arguments]
    print("$ " + shlex.join(["chatformer", *words]), flush=True)
    subprocess.run([sys.executable, "-m", "chatformer.cli.main", *words], check=True)


if __name__ == "__main__":
    sys.exit(main())
