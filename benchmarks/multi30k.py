"""
Multi30k English to German: the recipe, on training data that is made more diverse first.

    python benchmarks/multi30k.py --data multi30k --output-dir runs/multi30k

A model of each direction is trained by `benchmarks/recipes/multi30k.yaml`, and both translate the training data: each
sentence gets another translation, and each translation other sentences that it could be of. The final model, no larger,
is trained on all of it (data diversification: Nguyen et al., 2020, arXiv:1911.01986), and evaluated. No other data is
used, and nothing is chosen by the test set. Needs `chatformer[metrics,ctranslate2]`, and about three hours of one core.

--data is a folder with train, val and test_2016_flickr, each as NAME.lc.norm.tok.en and .de, and with .gz or without.
Every step is a command that is shown; what is done already is not done again, so that after Ctrl-C the same command
goes on.
"""

import gzip
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

RECIPE = Path(__file__).with_name("recipes") / "multi30k.yaml"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train the two models, diversify, train the third, and evaluate it."""

    data: Path
    """Folder of the data."""
    output_dir: Path
    """Folder of the three models and of the data between them."""
    max_steps: int | None = None
    """Train each model for no more steps, to try it all out in a folder of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all that is not done yet; return the exit status."""
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
    train(settings, "forward", [english, german], validation)
    train(settings, "backward", [german, english], validation[::-1], "--num-train-epochs", "40")
    other_german = translate(folder, "forward", english, "translated.de")
    other_english = translate(folder, "backward", german, "translated.en")
    diverse = [
        joined([english, english, other_english], folder / "diverse.en"),
        joined([german, other_german, german], folder / "diverse.de"),
    ]
    # A translation may be empty, which is no pair.
    train(settings, "model", diverse, validation, "--num-train-epochs", "24", "--skip-bad-rows")
    figures = ("--num-beams", "5", "--bleu-tokenize", "none")
    chatformer("evaluate", folder / "model", "--data", *test, *figures)


def found(folder: Path, part: str, side: str) -> Path:
    """Return where a side of a part lies, packed or not."""
    plain = folder / f"{part}.lc.norm.tok.{side}"
    for file in (plain, plain.with_name(f"{plain.name}.gz")):
        if file.is_file():
            return file
    raise ValueError(f"--data {folder} has no {plain.name}, nor {plain.name}.gz.")


def train(settings: Settings, name: str, data: list[Path], validation: list[Path], *more: str) -> None:
    """Train a model by the recipe, or go on with its training, or leave it if it is done."""
    folder = settings.output_dir / name
    if any(folder.glob("checkpoint-*")):
        return chatformer("train", "--output-dir", folder, "--resume")
    steps = [] if settings.max_steps is None else ["--max-steps", str(settings.max_steps)]
    command: list[str | Path] = ["train", "--recipe", RECIPE, "--data", *data, "--validation-data", *validation]
    return chatformer(*command, "--output-dir", folder, "--overwrite-output-dir", *more, *steps)


def translate(folder: Path, model: str, source: Path, name: str) -> Path:
    """Return the file of a model's translations, as five beams find them, one for each line."""
    exported, file = folder / f"{model}-ctranslate2", folder / name
    if not exported.exists():
        chatformer("export", folder / model, "--to", "ctranslate2", "--output-dir", exported)
    if not file.exists():
        search = ("--engine", "ctranslate2", "--num-beams", "5")
        chatformer("generate", exported, *search, "--data", source, "--output-file", file)
    return file


def joined(files: list[Path], file: Path) -> Path:
    """Return the file that holds the lines of all files, one behind the other."""
    with file.open("wb") as joint:
        for each in files:
            joint.write(gzip.decompress(each.read_bytes()) if each.suffix == ".gz" else each.read_bytes())
    return file


def chatformer(*arguments: str | Path) -> None:
    """Run a command of chatformer, and show it."""
    words = [str(argument) for argument in arguments]
    print("$ " + shlex.join(["chatformer", *words]), flush=True)
    subprocess.run([sys.executable, "-m", "chatformer.cli.main", *words], check=True)


if __name__ == "__main__":
    sys.exit(main())
