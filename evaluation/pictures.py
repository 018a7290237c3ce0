"""How good replies are that are pictures: what was drawn, compared with the true pictures."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table

from chatformer.chat.engines import Engine, TransformersEngine
from chatformer.data.exchanges import EncodedExchanges
from chatformer.pictures import PICTURE, ROW, pixels_of_text

from .scoring import Outcome

MOST_COMPLETED = 100
"""Pictures that are completed from their upper half: one at a time, since their halves are of several lengths."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureFigures:
    """The figures of drawn pictures, in percent."""

    pixel_accuracy: float
    """Share of the true pictures' pixels whose colour was drawn exactly."""
    nearest: float
    """Share of drawn pictures to which no picture of the data, learnt or not, is nearer than the true one."""
    exact: float
    """Share of drawn pictures that are the true one."""
    copied: float
    """Share of drawn pictures that are pictures of the training."""
    empty: float
    """Share of drawn pictures of one colour, where the true one has several: what is drawn by a model in doubt."""


ROWS = {
    "pixel_accuracy": "right pixels, %",
    "nearest": "nearest to the true picture, %",
    "exact": "exact, %",
    "copied": "copies of training pictures, %",
    "empty": "empty, %",
}
"""The figures in the order of the table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is measured where replies are pictures."""

    num_pictures: int
    bits_per_pixel: float
    figures: dict[str, PictureFigures]
    """Of the model, and of the two baselines that cost nothing."""
    completed_pixels: float | None
    """Right pixels, in percent, of lower halves that were drawn after the true upper halves."""


def pictures_of(
    exchanges: EncodedExchanges,
    outcome: Outcome,
    *,
    training: Sequence[str] = (),
    nearest_captions: Sequence[str] = (),
    completed: float | None = None,
) -> Pictures | None:
    """
    The figures of the replies that should be pictures; None if there are none.

    `training` are the answers of the training, and `nearest_captions` the answers of each question's most similar
    question there, if they are known; `completed` are the right pixels of completed pictures.
    """
    indices = [index for index, reply in enumerate(exchanges.replies) if PICTURE.fullmatch(reply)]
    answered = [index for index in indices if index < len(outcome.replies)]
    if not answered:
        return None
    references = [exchanges.replies[index] for index in answered]
    learnt = [answer for answer in dict.fromkeys(training) if PICTURE.fullmatch(answer)]
    drawings = {"model": [outcome.replies[index] for index in answered]}
    if nearest_captions:
        drawings["nearest caption"] = [nearest_captions[index] for index in answered]
    if learnt:
        usual = usual_pictures(learnt)
        drawings["usual picture"] = [usual.get(pixels_of_text(text).shape, "") for text in references]
    num_pixels = sum(math.prod(pixels_of_text(exchanges.replies[index]).shape[:2]) for index in indices)
    return Pictures(
        num_pictures=len(indices),
        bits_per_pixel=float(outcome.nats[indices].sum()) / math.log(2) / num_pixels,
        figures={name: figures_of_drawings(drawn, references, learnt) for name, drawn in drawings.items()},
        completed_pixels=completed,
    )


def figures_of_drawings(drawn: Sequence[str], references: Sequence[str], learnt: Sequence[str]) -> PictureFigures:
    """The figures of drawn pictures, each with its reference."""
    candidates = list(dict.fromkeys([*learnt, *references]))
    pixels = {text: pixels_of_text(text) for text in candidates}
    of_shape: dict[tuple[int, ...], list[str]] = {}
    for text, pixels_HWC in pixels.items():
        of_shape.setdefault(pixels_HWC.shape, []).append(text)
    stacked = {
        shape: np.stack([pixels[text].ravel() for text in texts]).astype(np.int32) for shape, texts in of_shape.items()
    }
    known = set(learnt)
    num_right = num_pixels = num_nearest = num_exact = num_copied = num_empty = 0
    for text, reference in zip(drawn, references, strict=True):
        true_HWC = pixels[reference]
        fitted_HWC, is_drawn_HW = fitted(text, true_HWC.shape)
        num_right += int(((fitted_HWC == true_HWC).all(axis=-1) & is_drawn_HW).sum())
        num_pixels += is_drawn_HW.size
        distances = ((stacked[true_HWC.shape] - fitted_HWC.ravel()) ** 2).sum(axis=1)
        num_nearest += bool(distances[of_shape[true_HWC.shape].index(reference)] <= distances.min())
        num_exact += text == reference
        num_copied += text in known
        num_empty += is_of_one_colour(fitted_HWC) and not is_of_one_colour(true_HWC)
    share = 100 / len(drawn)
    return PictureFigures(
        pixel_accuracy=100 * num_right / num_pixels,
        nearest=share * num_nearest,
        exact=share * num_exact,
        copied=share * num_copied,
        empty=share * num_empty,
    )


def is_of_one_colour(pixels_HWC: np.ndarray) -> bool:
    return bool((pixels_HWC == pixels_HWC[0, 0]).all())


def fitted(text: str, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The first picture of a text, cut or made white beyond itself to be of that shape; and where it was drawn."""
    pixels_HWC, is_drawn_HW = np.full(shape, 255, dtype=np.int32), np.zeros(shape[:2], dtype=bool)
    match = PICTURE.search(text)
    if match is not None:
        drawn_HWC = pixels_of_text(match[0])[: shape[0], : shape[1]]
        pixels_HWC[: drawn_HWC.shape[0], : drawn_HWC.shape[1]] = drawn_HWC
        is_drawn_HW[: drawn_HWC.shape[0], : drawn_HWC.shape[1]] = True
    return pixels_HWC, is_drawn_HW


def usual_pictures(learnt: Sequence[str]) -> dict[tuple[int, ...], str]:
    """By shape, the picture whose every pixel has the colour that is the most frequent there in the training."""
    letters: dict[tuple[int, ...], list[list[str]]] = {}
    for text in learnt:
        letters.setdefault(pixels_of_text(text).shape, []).append(list(text))
    return {
        shape: "".join(Counter(place).most_common(1)[0][0] for place in zip(*texts, strict=False))
        for shape, texts in letters.items()
    }


def completed_pixels(
    engine: Engine, tokenizer: Any, exchanges: EncodedExchanges, *, most: int = MOST_COMPLETED
) -> float | None:
    """Right pixels, in percent, of lower halves that the model draws below the true upper halves; None if it cannot."""
    if not isinstance(engine, TransformersEngine):
        return None
    model, num_right, num_pixels = engine.model, 0, 0
    start = model.generation_config.decoder_start_token_id
    indices = [index for index, reply in enumerate(exchanges.replies) if PICTURE.fullmatch(reply)][:most]
    for index in indices:
        reference = exchanges.replies[index]
        rows = re.findall(ROW, reference)
        # As rows are words of the tokenizer, the upper half has the same tokens as in the complete picture.
        upper_ids = tokenizer("".join(rows[: len(rows) // 2]))["input_ids"][:-1]
        ids = model.generate(
            torch.tensor([exchanges.sources[index].tolist()], device=model.device),
            decoder_input_ids=torch.tensor([[start, *upper_ids]], device=model.device),
            max_new_tokens=2 * len(exchanges.targets[index]),
            do_sample=False,
        )
        true_HWC = pixels_of_text(reference)
        drawn_HWC, is_drawn_HW = fitted(tokenizer.decode(ids[0], skip_special_tokens=True), true_HWC.shape)
        is_right_HW = (drawn_HWC == true_HWC).all(axis=-1) & is_drawn_HW
        num_right += int(is_right_HW[len(rows) // 2 :].sum())
        num_pixels += is_right_HW[len(rows) // 2 :].size
    return 100 * num_right / num_pixels if num_pixels else None


def pictures_table(pictures: Pictures) -> Table:
    """The figures for the terminal."""
    grid = Table(title=f"{pictures.num_pictures} pictures", title_justify="left")
    grid.add_column("")
    for name in pictures.figures:
        grid.add_column(name, justify="right", max_width=8)
    grid.add_row("bits per pixel", f"{pictures.bits_per_pixel:.3f}")
    for field, title in ROWS.items():
        grid.add_row(title, *(f"{getattr(figures, field):.1f}" for figures in pictures.figures.values()))
    if pictures.completed_pixels is not None:
        grid.add_row("right pixels of completed lower halves, %", f"{pictures.completed_pixels:.1f}")
    return grid
