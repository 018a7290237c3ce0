"""
Multi30k English to German: the recipe, on training data that is made more diverse first.

    python benchmarks/multi30k.py --data multi30k --output-dir runs/multi30k

A model of each direction is trained by `benchmarks/recipes/multi30k.yaml`, and both translate the training data: each
sentence gets another translation, and each translation another sentence that it could be of. The model, no larger, is
trained on all of it (data diversification: Nguyen et al., 2020, arXiv:1911.01986). In a second round two others do the
same, and the model goes on with more of it, and is evaluated. No other data is used, and nothing is chosen by the test
set. Needs `chatformer[metrics,ctranslate2]`, and five to six hours of one core.

--data is a folder with train, val and test_2016_flickr, each as NAME.lc.norm.tok.en and .de, and with .gz or without.
Every step is a command that is shown; what is done already is not done again, so that after Ctrl-C the same command
goes on.
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
"""What the models that translate, forward and backward, have beside the recipe: less is enough for what they do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Diversify the training data and train the model on it, twice, and evaluate it."""

    data: Path
    """Folder of the data."""
    output_dir: Path
    """Folder of all models and of the data between them."""
    max_steps: int | None = None
    """Train each model for no more steps in a round, to try it all out in a folder of its own."""


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
    """Return where a side of a part lies, packed or not."""
    plain = folder / f"{part}.lc.norm.tok.{side}"
    for file in (plain, plain.with_name(f"{plain.name}.gz")):
        if file.is_file():
            return file
    raise ValueError(f"--data {folder} has no {plain.name}, nor {plain.name}.gz.")


def train(folder: Path, data: list[Path], validation: list[Path], *more: str, start: Path | None = None) -> Path:
    """
    Return the folder of a model that is trained by the recipe, or whose training goes on where it was.

    With a `start` that model's training goes on, with this data and in this folder.
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
    """Return the file of a model's translations, as five beams find them, one for each line."""
    exported = model.with_name(f"{model.name}-ctranslate2")
    if not exported.exists():
        chatformer("export", model, "--to", "ctranslate2", "--output-dir", exported)
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
