"""Replies to the lines of a text, in batches."""

import contextlib
import gzip
import itertools
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import tyro

from .errors import ChatError, InputError
from .lines import in_one_line, lines_of
from .loading import load_chatbot
from .settings import GenerationSettings

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from .chatbot import Chatbot, Message

LINES_AT_ONCE = 10_000
"""So many lines are read and sorted by length at a time, and written when all of them are replied to."""


def main(arguments: Sequence[str], program: str = "chatformer generate") -> int:
    """Reply to lines as a command line says; return the exit status."""
    settings = tyro.cli(GenerationSettings, args=list(arguments), prog=program)
    try:
        generate(settings)
    except ChatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def generate(settings: GenerationSettings) -> None:
    """Write a line for each line that is read; a blank one for a blank one."""
    with whole_or_nothing(settings.output_file) as output, opened(settings.data) as data:
        chatbot = load_chatbot(settings)
        from tqdm import tqdm

        from .chatbot import turn

        opening = [turn("system", settings.system)] if settings.system else []
        search = settings.reply.search()
        num_cut = 0
        with tqdm(total=count_lines(data), unit="line", desc="replying", disable=None) as bar:
            lines = lines_of(data, str(settings.data or "standard input"))
            while texts := list(itertools.islice(lines, LINES_AT_ONCE)):
                asked = [[*opening, turn("user", text)] for text in texts if text]
                bar.update(len(texts) - len(asked))
                answered, cut = replies(chatbot, asked, search, settings.batch_tokens, bar.update)
                num_cut += cut
                found = iter(answered)
                output.writelines(f"{in_one_line(next(found)) if text else ''}\n" for text in texts)
                output.flush()
        if num_cut:
            print(
                f"note: {num_cut} lines are longer than the {chatbot.max_source_tokens} tokens that the model was "
                "trained on, and were read without their beginning.",
                file=sys.stderr,
            )


def replies(
    chatbot: "Chatbot",
    conversations: "Sequence[Sequence[Message]]",
    search: "GenerationConfig",
    batch_tokens: int,
    on_replies: Callable[[int], object],
) -> tuple[list[str], int]:
    """
    Return the reply to each conversation, and how many of these were too long and are cut.

    Sources of like length are read at a time, up to `batch_tokens` tokens of them; `on_replies` is told how many have
    got their reply.
    """
    from chatformer.conversation import encode_conversation, encode_conversations

    longest, num_cut = chatbot.max_source_tokens or sys.maxsize, 0
    sources = encode_conversations(chatbot.tokenizer, conversations) if conversations else []
    for index, source in enumerate(sources):
        if len(source) > longest:
            sources[index] = encode_conversation(chatbot.tokenizer, conversations[index], longest)
            num_cut += 1
    found = [""] * len(sources)
    # The longest first: should memory not suffice, that is known at once.
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]), reverse=True)
    while order:
        size = max(1, batch_tokens // len(sources[order[0]]))
        batch, order = order[:size], order[size:]
        ids = chatbot.engine.generate([sources[index] for index in batch], search)
        texts = chatbot.tokenizer.batch_decode(ids, skip_special_tokens=True)
        for index, text in zip(batch, texts, strict=True):
            found[index] = text
        on_replies(len(batch))
    return found, num_cut


@contextlib.contextmanager
def opened(file: Path | None) -> Iterator[IO[bytes]]:
    """Give the file, or standard input without one; raise an `InputError` where there is nothing to read."""
    if file is None:
        if sys.stdin.isatty():
            raise InputError("there is nothing to reply to. Give --data FILE, or lines through a pipe.")
        yield sys.stdin.buffer
        return
    open_file: Callable[..., Any] = gzip.open if file.suffix == ".gz" else open
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open_file(file, "rb"))
        except OSError as error:
            raise InputError(f"--data {file} cannot be read ({error.strerror}).") from error
        try:
            yield stream
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"--data {file} is a broken gzip file ({error}).") from error


def count_lines(stream: IO[bytes]) -> int | None:
    """Return how many lines the file has, or None for a pipe."""
    if not stream.seekable():
        return None
    start = stream.tell()
    count = sum(1 for _ in stream)
    stream.seek(start)
    return count


@contextlib.contextmanager
def whole_or_nothing(file: Path | None) -> Iterator[IO[str]]:
    """Give what to write the file with, which is there at the end, or not at all; standard output without a file."""
    if file is None:
        yield sys.stdout
        return
    aside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            yield stream
        aside.replace(file)
    except OSError as error:
        raise InputError(f"--output-file {file} cannot be written ({error.strerror}).") from error
    finally:
        aside.unlink(missing_ok=True)
