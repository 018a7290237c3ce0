"""
The picture of the README: a real `chatformer quickstart` in a terminal, from its training to a conversation.

    python benchmarks/picture.py --output-file docs/quickstart.png
    python benchmarks/picture.py --model chatformer-quickstart --output-file chat.png

The first command trains a model; the second only talks to a trained one. Either runs `chatformer` in a terminal of its
own, types the questions one after the other, and waits for each reply. The picture shows the output of that command:
the last evaluations of the training, and all that follows. A line `⋮` marks what is left out, and a line that is too
long breaks at a space.

It needs the packages of `.[test]`, and a monospaced font with Hangul: `apt install fonts-naver-d2coding`.
"""

import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pyte
import tyro
from screen import Row, Screen, Typeface, draw, row_of, save, text_of

QUESTIONS = ("안녕!", "어텐션이 뭐야?", "돌고래는 물고기야?", "왜?", "I'm hungry", "What is a Transformer?")
"""Of the starter corpus's topics, in two languages; the fourth makes sense only after the one before."""

PROMPT = "you> "
LARGEST_FILE = 200_000
"""Bytes that a page should have to load for a picture."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw a training and a conversation as a terminal shows them."""

    output_file: Path = Path("docs/quickstart.png")
    """The picture, a PNG."""
    model: Path | None = None
    """Folder of a trained model; the picture then has only a conversation."""
    max_steps: int | None = None
    """Steps of the training; those of `chatformer quickstart` unless given."""
    questions: tuple[str, ...] = QUESTIONS
    """What is typed."""
    evaluations: int = 3
    """Number of evaluations to show, the last ones of the training."""
    samples: int = 0
    """Number of questions to show with their replies from each evaluation; shortened ones are skipped."""
    columns: int = 92
    """Width of the terminal."""
    font: Path | None = None
    """A monospaced font with Hangul in two columns; an installed one unless given."""
    bold_font: Path | None = None
    """The same for bold text."""
    font_size: int = 32
    """Size of the font in pixels, for a picture that is shown at half its width."""
    training_minutes: float = 60.0
    """Minutes after which an unfinished training is an error."""
    reply_seconds: float = 60.0
    """The same for a reply."""


class TerminalError(RuntimeError):
    """A program in a terminal did not do what was expected; the message has its last lines."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the picture that a command line describes; return the exit status."""
    settings = tyro.cli(Settings, args=arguments, prog="python benchmarks/picture.py")
    try:
        check_settings(settings)
        typeface = Typeface.load(settings.font, settings.bold_font, settings.font_size)
        if settings.model is None:
            command = ["quickstart"] + ([] if settings.max_steps is None else ["--max-steps", str(settings.max_steps)])
            # In an empty folder, where the model gets the name that it always gets.
            with tempfile.TemporaryDirectory() as folder:
                rows = rows_of_conversation(command, Path(folder), settings)
        else:
            folder = settings.model.resolve()
            command = ["chat", folder.name]
            rows = rows_of_conversation(command, folder.parent, settings)
        title = " ".join(["chatformer", *command])
        picture = draw(chosen_rows(rows, settings.evaluations, settings.samples), title, settings.columns, typeface)
        save(picture, settings.output_file)
    except (TerminalError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = settings.output_file.stat().st_size
    print(f"{settings.output_file}: {picture.width} x {picture.height} pixels, {size / 1000:.0f} kB")
    if size > LARGEST_FILE:
        print(f"That is more than {LARGEST_FILE / 1000:.0f} kB: ask fewer questions or lower --font-size.")
    return 0


def check_settings(settings: Settings) -> None:
    """Raise a `ValueError` for settings that cannot work."""
    if settings.model is not None and not settings.model.is_dir():
        raise ValueError(f"--model must be the folder of a trained model, and {settings.model} is no folder.")
    if settings.columns < 40:
        raise ValueError(f"--columns must be at least 40, and {settings.columns} was given.")
    if settings.evaluations < 1 or settings.samples < 0:
        raise ValueError(
            f"--evaluations must be at least 1 and --samples at least 0, and {settings.evaluations} and "
            f"{settings.samples} were given."
        )
    room = settings.columns - len(PROMPT) - 1
    for question in settings.questions:
        if not question.strip() or not question.isprintable():
            raise ValueError(f"A question must be a line of text, and {question!r} is not.")
        screen = Screen()
        pyte.Stream(screen).feed(question)
        if screen.cursor.x > room:
            raise ValueError(
                f"A question must fit in a line of the terminal, which has room for {room} columns, and {question!r} "
                f"has {screen.cursor.x}. Shorten it, or raise --columns."
            )


def rows_of_conversation(command: Sequence[str], folder: Path, settings: Settings) -> list[Row]:
    """Run `chatformer` in a terminal until every question is answered; return all lines of its output."""
    screen = Screen()
    stream = pyte.Stream(screen)
    # As the shell shows it.
    stream.feed(f"\x1b[32;1m$\x1b[0m chatformer {' '.join(command)}\r\n")
    written = io.StringIO()
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "chatformer.cli.main", *command],
        cwd=folder,
        env=os.environ | {"TERM": "xterm-256color", "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"},
        dimensions=(40, settings.columns),
        encoding="utf-8",
        codec_errors="replace",
    )
    terminal.logfile_read = written
    try:
        wait_for_prompt(terminal, 60 * settings.training_minutes, written)
        for question in settings.questions:
            terminal.sendline(question)
            wait_for_prompt(terminal, settings.reply_seconds, written)
    finally:
        # On a busy machine a process ends slowly.
        terminal.ptyproc.delayafterterminate = 1.0
        terminal.close(force=True)
    stream.feed(written.getvalue())
    return screen.rows()


def wait_for_prompt(terminal: pexpect.spawn, seconds: float, written: io.StringIO) -> None:
    """Wait for the prompt; raise a `TerminalError` if it does not come."""
    found = terminal.expect([rf"\n\r?{PROMPT}", pexpect.EOF, pexpect.TIMEOUT], timeout=seconds, searchwindowsize=200)
    if found:
        problem = "ended" if found == 1 else f"asked for nothing in {seconds:.0f} seconds"
        raise TerminalError(f"The command {problem}. It wrote at last:\n{written.getvalue()[-2000:]}")


def chosen_rows(rows: Sequence[Row], evaluations: int, samples: int) -> list[Row]:
    """The command, the end of its training if there was one, and the conversation, with marks in the gaps."""
    texts = [text_of(row) for row in rows]
    start = next(number for number, text in enumerate(texts) if text.startswith("Say something"))
    # A few sample replies come before the conversation, which has enough of its own.
    end = next((number for number, text in enumerate(texts) if text.startswith("A few replies")), start)
    conversation = without_blank_ends(rows[start:])
    training = end_of_training(rows[1:end], evaluations, samples)
    gap = [row_of("⋮", dim=True)]
    return [rows[0], *(gap + training + gap if training else []), *conversation]


def end_of_training(rows: Sequence[Row], evaluations: int, samples: int) -> list[Row]:
    """The last evaluations, with a few samples of each, and what comes after them."""
    starts = [number for number, row in enumerate(rows) if re.match(r"step \d+:", text_of(row))]
    if not starts:
        return []
    chosen: list[Row] = []
    num_samples = samples
    for row in rows[starts[-evaluations:][0] :]:
        text = text_of(row)
        if text.startswith("step "):
            num_samples = 0
        elif text.startswith("    ") and " → " in text:
            num_samples += "…" not in text
            if "…" in text or num_samples > samples:
                continue
        elif text.startswith("    ") or text == "Talk to it with":
            # The files that were written, and the command that starts the conversation.
            continue
        chosen.append(row)
    return without_blank_ends(chosen)


def without_blank_ends(rows: Sequence[Row]) -> list[Row]:
    filled = [number for number, row in enumerate(rows) if row]
    return list(rows[filled[0] : filled[-1] + 1]) if filled else []


if __name__ == "__main__":
    sys.exit(main())
