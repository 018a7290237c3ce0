"""
How well a model draws, judged by what never saw it, and sheets of what it drew.

    chatformer train --recipe digits --output-dir runs/digits
    python benchmarks/pictures.py digits runs/digits
    chatformer train --recipe emoji --output-dir runs/emoji
    python benchmarks/pictures.py sheet runs/emoji --data emoji-held-out --output-file emoji.png

    python benchmarks/pictures.py things runs/emoji

`digits` has a classifier read the digits that the model writes: a support vector machine that was trained on
scikit-learn's digits alone. `sheet` is a picture: in each pair the true one is above what was drawn. `things` counts
what comes out right of emoji that the model has learnt, and that stand alone: those without a skin tone. `rerank`
compares first draws with the best of several draws by a model of the other direction:

    chatformer train --recipe digits --question-column picture --answer-column caption \\
        --max-source-tokens 80 --max-target-tokens 16 --vocab-size 700 --dropout 0.1 --learning-rate 2e-3 \\
        --max-steps 600 --eval-steps 500 --output-dir runs/digits-captions
    python benchmarks/pictures.py rerank runs/digits runs/digits-captions
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from machine import markdown_head, markdown_row
from PIL import Image

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.errors import ChatError
from chatformer.chat.lines import replies
from chatformer.chat.reranking import Judge
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import turn
from chatformer.data.digits import NAMES, digits, ink_of
from chatformer.data.emojis import captions_of, emojis, is_held_out
from chatformer.data.named import named_conversations
from chatformer.evaluation.own_data import questions_and_answers
from chatformer.evaluation.pictures import figures_of_drawings, fitted
from chatformer.pictures import pixels_of_text

BATCH_TOKENS = 2000
SIDE = 8
"""Of a digit, in pixels."""
GREY = 208
"""Between the pictures of a sheet."""
COLUMNS, SCALE = 16, 2
"""Of a sheet: pairs in a row, and pixels for each of a picture."""


@dataclass(frozen=True, kw_only=True)
class DigitsSettings:
    """Have a classifier read the digits that a model writes."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a model of the recipe `digits`."""
    num_draws: int = 20
    """Digits of each name."""
    temperature: float = 1.0
    """Of the draws; 0 writes the likeliest digit, always the same."""
    top_k: int = 0
    """Draw from this many likeliest tokens; 0 sets no limit."""
    seed: int = 42
    """Of the draws."""


@dataclass(frozen=True, kw_only=True)
class RerankSettings(DigitsSettings):
    """Compare first draws of digits with the best of several."""

    judge: Annotated[str, tyro.conf.Positional]
    """Folder of a model that names digits."""
    choices: int = 8
    """Draws that the judge chooses among."""


@dataclass(frozen=True, kw_only=True)
class SheetSettings:
    """Draw a sheet: true pictures, and what the model drew of their names."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a model that draws."""
    data: str = "emoji-held-out"
    """Named data whose captions are drawn."""
    temperature: float = 0.0
    """Above 0, draws differ."""
    seed: int = 42
    """Of the draws."""
    num_pairs: int = 32
    """Pictures from all over the data."""
    columns: int = COLUMNS
    """Pairs in a row."""
    scale: int = SCALE
    """Pixels of the sheet for each of a picture."""
    output_file: Path = Path("sheet.png")
    """Where to write it."""


@dataclass(frozen=True, kw_only=True)
class ThingsSettings:
    """Count what comes out right of single emoji that the model has learnt."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a model that draws emoji."""
    num_things: int = 128
    """Emoji, each asked for by its usual name in Korean and in English."""
    wished: bool = False
    """Ask in sentences, as the data emoji-wishes does."""
    temperature: float = 0.0
    """Above 0, draws differ."""
    seed: int = 42
    """Of the emoji that are asked for, and of the draws."""
    output_file: Path | None = None
    """Write a sheet of the first of them here."""
    num_pairs: int = 32
    """Pictures of the sheet."""


def drawings(
    settings: DigitsSettings | SheetSettings | ThingsSettings,
    captions: Sequence[str],
    search: ReplySettings,
    judge: Judge | None = None,
    num_draws: int = 1,
) -> list[str]:
    """What a model draws of each caption; with a judge, what it finds best of `num_draws`."""
    chatbot = Chatbot.from_pretrained(settings.model, device="cpu")
    chatbot.engine.set_seed(settings.seed)
    conversations = [[turn("user", caption)] for caption in captions]
    return replies(
        chatbot, conversations, search.search(), BATCH_TOKENS, lambda _: None, judge=judge, num_draws=num_draws
    )[0]


def share_read_right(drawn: Sequence[str], values: Sequence[int]) -> tuple[float, float]:
    """The share of drawn digits that the classifier reads as they were meant, and of real ones it had not seen."""
    from sklearn.svm import SVC

    learnt, held_out = digits(held_out=False), digits(held_out=True)
    classifier = SVC(gamma=0.001, C=10).fit([each.ink_HW.ravel() for each in learnt], [each.value for each in learnt])
    real = classifier.score([each.ink_HW.ravel() for each in held_out], [each.value for each in held_out])
    inks = [ink_of(fitted(text, (SIDE, SIDE, 3))[0]).ravel() for text in drawn]
    return classifier.score(inks, values), real


def measure_digits(settings: DigitsSettings) -> None:
    wishes = [(name, value) for value, names in enumerate(NAMES) for name in names for _ in range(settings.num_draws)]
    captions, values = zip(*wishes, strict=True)
    search = ReplySettings(temperature=settings.temperature, top_k=settings.top_k)
    rows = [("drawn", drawings(settings, captions, search))]
    if isinstance(settings, RerankSettings):
        judge = Judge(Chatbot.from_pretrained(settings.judge, device="cpu"))
        rows.append((f"the best of {settings.choices}", drawings(settings, captions, search, judge, settings.choices)))
    print(markdown_head(["digits", "read right", "different"]))
    for name, drawn in rows:
        right, real = share_read_right(drawn, values)
        print(markdown_row([f"{len(drawn)} {name}", f"{right:.1%}", str(len(set(drawn)))]))
    print(markdown_row(["real ones, which neither has seen", f"{real:.1%}", ""]))


def measure_things(settings: ThingsSettings) -> None:
    learnt = [emoji for emoji in emojis() if not is_held_out(emoji.text)]
    things = [emoji for emoji in learnt if not emoji.has_skin_tone]
    if settings.num_things > len(things):
        raise ValueError(f"--num-things {settings.num_things}: there are {len(things):,} of them.")
    chosen = np.random.default_rng(settings.seed).choice(len(things), settings.num_things, replace=False)
    wishes = [
        (of_language[0], things[index].picture)
        for index in chosen
        for of_language in captions_of(things[index], wished=settings.wished)
    ]
    asked, pictures = zip(*wishes, strict=True)
    drawn = drawings(settings, asked, ReplySettings(temperature=settings.temperature))
    figures = figures_of_drawings(drawn, pictures, [emoji.picture for emoji in learnt])
    titles = {"exact": "exact", "nearest": "nearest of all", "pixel_accuracy": "right pixels", "empty": "empty"}
    print(markdown_head(["learnt things", *titles.values()]))
    print(markdown_row([str(len(drawn)), *(f"{getattr(figures, name):.1f}%" for name in titles)]))
    if settings.output_file is not None:
        # Of the two languages, the first.
        asked_once = slice(0, 2 * settings.num_pairs, 2)
        save_sheet(pictures[asked_once], drawn[asked_once], settings.output_file)


def write_sheet(settings: SheetSettings) -> None:
    pairs = questions_and_answers(named_conversations([settings.data]).conversations)
    pairs = [pairs[number * len(pairs) // settings.num_pairs] for number in range(settings.num_pairs)]
    drawn = drawings(settings, [caption for caption, _ in pairs], ReplySettings(temperature=settings.temperature))
    save_sheet(
        [picture for _, picture in pairs], drawn, settings.output_file, columns=settings.columns, scale=settings.scale
    )


def save_sheet(
    pictures: Sequence[str], drawn: Sequence[str], file: Path, *, columns: int = COLUMNS, scale: int = SCALE
) -> None:
    """Write a sheet of pairs, each a true picture above what was drawn, with so many pairs in a row."""
    pairs = []
    for picture, text in zip(pictures, drawn, strict=True):
        true_HWC = pixels_of_text(picture)
        gap_HWC = np.full_like(true_HWC[:1], GREY)
        pair = np.concatenate([true_HWC, gap_HWC, fitted(text, true_HWC.shape)[0].astype(np.uint8)])
        pairs.append(np.pad(pair, ((2, 2), (1, 1), (0, 0)), constant_values=GREY))
    rows = [np.concatenate(pairs[start : start + columns], axis=1) for start in range(0, len(pairs), columns)]
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=GREY) for row in rows]
    )
    Image.fromarray(sheet.repeat(scale, axis=0).repeat(scale, axis=1)).save(file)
    print(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or draw as the command line says; return the exit status."""

    def digits(settings: tyro.conf.OmitArgPrefixes[DigitsSettings]) -> None:
        """Have a classifier read the digits that a model writes."""
        measure_digits(settings)

    def rerank(settings: tyro.conf.OmitArgPrefixes[RerankSettings]) -> None:
        """Compare first draws of digits with the best of several."""
        measure_digits(settings)

    def sheet(settings: tyro.conf.OmitArgPrefixes[SheetSettings]) -> None:
        """Draw a sheet: true pictures, and what the model drew of their names."""
        write_sheet(settings)

    def things(settings: tyro.conf.OmitArgPrefixes[ThingsSettings]) -> None:
        """Count what comes out right of single emoji that the model has learnt."""
        measure_things(settings)

    try:
        commands = {"digits": digits, "rerank": rerank, "sheet": sheet, "things": things}
        tyro.extras.subcommand_cli_from_dict(commands, args=arguments)
    except (ChatError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
