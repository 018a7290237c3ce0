"""`chatformer generate`: replies to the lines of a text, in batches."""

import contextlib
import gzip
import itertools
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from chatformer.configuration.replies import GenerationSettings
from chatformer.conversation import normalized_text
from chatformer.pictures import PICTURE
from chatformer.storage.bars import progress_bar
from chatformer.storage.explaining import counted
from chatformer.storage.keeping import File, check_kept, model_files, standard_input
from chatformer.storage.printing import plain_console
from chatformer.storage.writing import check_output_file, whole_file

from .errors import ChatError, InputError
from .half_blocks import Screen
from .loading import load_chatbot
from .media import MediaFolder

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from chatformer.conversation import Message

    from .chatbot import Chatbot
    from .reranking import Judge

LINES_AT_ONCE = 10_000
"""Lines that are read, sorted by length and answered before the next are read."""


def generate(settings: GenerationSettings) -> None:
    """Write one line for each line that is read; a blank line for a blank line."""
    name = str(settings.data or "standard input")
    if settings.output_file is not None:
        check_output_file(settings.output_file)
    check_inputs_are_kept(settings)
    with opened(settings.data) as data:
        # An unreadable line is an error now, not after hours of replies.
        num_lines = count_lines(data, name)
        chatbot = load_chatbot(settings)
        judge = None if settings.rerank_by is None else judge_of(settings)
        with opened_output(settings.output_file) as output:
            num_cut = reply_to_lines(chatbot, settings, lines_of(data, name), num_lines, output, judge)
    tell_of_cut(num_cut, chatbot.max_source_tokens)


def tell_of_cut(num_cut: int, max_source_tokens: int | None) -> None:
    """Print a note on so many lines that were too long, if there are any."""
    if num_cut:
        print(
            f"note: {counted(num_cut, 'line')} of more than the {max_source_tokens} tokens that the model was trained "
            "on had to be read without the beginning.",
            file=sys.stderr,
        )


def judge_of(settings: GenerationSettings) -> "Judge":
    """The model that chooses among draws; raise a `ChatError` if they would all be the same."""
    from .chatbot import Chatbot
    from .reranking import Judge

    assert settings.rerank_by is not None
    if not settings.reply.temperature:
        raise ChatError("--rerank-by chooses among drawn replies, so it needs --temperature, such as 1.")
    return Judge(Chatbot.from_pretrained(settings.rerank_by, device=settings.device))


def reply_to_lines(
    chatbot: "Chatbot",
    settings: GenerationSettings,
    lines: Iterator[str],
    num_lines: int | None,
    output: IO[str],
    judge: "Judge | None" = None,
) -> int:
    """Write the reply to each line; return the number of lines that were too long and were cut."""
    from chatformer.conversation import turn

    media = None if settings.save_media is None else MediaFolder(settings.save_media)
    opening = [turn("system", settings.system)] if settings.system else []
    search, num_cut = settings.reply.search(), 0
    # Replies that the user sees are progress enough.
    with progress_bar(total=num_lines, description="replying", unit="line", shown=not output.isatty()) as bar:
        while texts := list(itertools.islice(lines, LINES_AT_ONCE)):
            conversations = [[*opening, turn("user", text)] for text in texts if text]
            bar.update(len(texts) - len(conversations))
            answers, cut = replies(
                chatbot,
                conversations,
                search,
                settings.batch_tokens,
                bar.update,
                judge=judge,
                num_draws=1 if judge is None else settings.num_draws,
            )
            num_cut += cut
            if media is not None:
                for reply in answers:
                    media.save(reply)
            answer = iter(answers)
            for text in texts:
                write_reply(next(answer) if text else "", output)
            output.flush()
    return num_cut


def replies(
    chatbot: "Chatbot",
    conversations: "Sequence[Sequence[Message]]",
    search: "GenerationConfig",
    batch_tokens: int,
    on_replies: Callable[[int], object],
    *,
    judge: "Judge | None" = None,
    num_draws: int = 1,
) -> tuple[list[str], int]:
    """
    The reply to each conversation, and the number of conversations that were too long and were cut.

    With a `judge` it is the one that the judge finds best of `num_draws`.

    A batch has sources of similar length and at most `batch_tokens` tokens, halved whenever memory is too small.
    `on_replies` is called with the number of new replies.
    """
    from accelerate.utils.memory import should_reduce_batch_size

    from chatformer.conversation import cut, encode_conversations

    longest, num_cut = chatbot.max_source_tokens or sys.maxsize, 0
    sources = encode_conversations(chatbot.tokenizer, conversations) if conversations else []
    for index, source in enumerate(sources):
        if len(source) > longest:
            sources[index] = cut(chatbot.tokenizer, conversations[index], source, longest)
            num_cut += 1
    texts = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]), reverse=True)
    while order:
        size = max(1, batch_tokens // (len(sources[order[0]]) * num_draws))
        try:
            drawn = [sources[index] for index in order[:size] for _ in range(num_draws)]
            ids = chatbot.engine.generate(drawn, search)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if size == 1:
                raise ChatError("there is too little memory to reply to one line. Lower --num-beams.") from error
            batch_tokens //= 2
            continue
        batch, order = order[:size], order[size:]
        drawn_texts = chatbot.tokenizer.batch_decode(ids, skip_special_tokens=True)
        for place, index in enumerate(batch):
            choices = drawn_texts[place * num_draws : (place + 1) * num_draws]
            texts[index] = choices[0] if judge is None else judge.best(conversations[index][-1]["content"], choices)
        on_replies(len(batch))
    return texts, num_cut


@contextlib.contextmanager
def opened(file: Path | None) -> Iterator[IO[bytes]]:
    """Give the file or standard input, decompressed; raise an `InputError` if there is nothing to read."""
    with contextlib.ExitStack() as stack:
        if file is not None:
            try:
                stream: Any = stack.enter_context(file.open("rb"))
            except OSError as error:
                raise InputError(f"--data {file} cannot be read ({error.strerror}).") from error
        elif sys.stdin is None or sys.stdin.isatty():
            raise InputError("there is nothing to reply to. Give --data FILE, or lines through a pipe.")
        else:
            stream = sys.stdin.buffer
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream = stack.enter_context(gzip.open(stream))
        yield stream


def count_lines(stream: IO[bytes], name: str) -> int | None:
    """The number of lines of a file, all of them in UTF-8, or None for a pipe."""
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return None
    start = stream.tell()
    count = sum(1 for _ in lines_of(stream, name))
    stream.seek(start)
    return count


def check_inputs_are_kept(settings: GenerationSettings) -> None:
    """Raise a `StorageError` if the output file is one of those that are read."""
    if settings.output_file is None:
        return
    inputs: dict[str, Sequence[File]] = {
        f"the model in {model}": model_files(model, command="generate")
        for model in (settings.model, settings.rerank_by)
        if model is not None
    }
    if settings.data is None:
        inputs["standard input"] = standard_input()
    else:
        inputs["--data"] = [settings.data]
    check_kept([settings.output_file], inputs, flag="--output-file")


@contextlib.contextmanager
def opened_output(file: Path | None) -> Iterator[IO[str]]:
    """Give the stream that replies go to: standard output, or a file that is complete at the end or not written."""
    if file is None:
        yield sys.stdout
        return
    try:
        with whole_file(file) as partial, partial.open("w", encoding="utf-8") as stream:
            yield stream
    except OSError as error:
        raise InputError(f"--output-file {file} cannot be written ({error.strerror}).") from error


def lines_of(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the text of each line; raise an `InputError` that names the line of `name` that cannot be read."""
    lines = iter(stream)
    for number in itertools.count(1):
        try:
            line = next(lines).decode("utf-8-sig" if number == 1 else "utf-8")
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of {name} must be UTF-8, but it is not.") from error
        except (EOFError, zlib.error, OSError) as error:
            raise InputError(f"{name} cannot be read: {error}.") from error
        yield normalized_text(line)


def write_reply(reply: str, output: IO[str]) -> None:
    """Write a reply in one line, each run of white space as one space; on a terminal its pictures are drawn."""
    line = " ".join(reply.split())
    if output.isatty() and PICTURE.search(line):
        screen = Screen(plain_console(file=output), at_start=True)
        screen.write(line)
        screen.end()
    else:
        output.write(f"{line}\n")
