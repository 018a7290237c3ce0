"""One reply: how its texts were cut into tokens, attention, the likeliest next tokens, the beams of a search."""

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chatformer.chat.inside import Attention, Beam, Step, Token, beam_places

from .drawing import LONGEST_SIDE, fonts_for, name_axes, new_figure, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS_OF_TOKENS = 72
"""The width of a line of tokens, in letters of the Latin alphabet."""


def tokens(tokens_of_text: Sequence[Token], title: str) -> "Figure":
    """How a text was cut: a box for each token, with its id below."""
    places, column, line = [], 0.0, 0
    for token in tokens_of_text:
        width = max(width_of(token.text), len(str(token.id)), 2) + 1
        if column and column + width > COLUMNS_OF_TOKENS:
            column, line = 0.0, line + 1
        places.append((column, line, width))
        column += width + 0.5
    with fonts_for(token.text for token in tokens_of_text):
        from matplotlib.patches import FancyBboxPatch

        figure = new_figure(11, 1.1 + 0.8 * (line + 1))
        axes = figure.subplots()
        for (column, line, width), token in zip(places, tokens_of_text, strict=True):
            colour = "lightgrey" if token.is_special else f"C{token.id % 10}"
            box = FancyBboxPatch(
                (column, -line), width, 0.45, boxstyle="round,pad=0,rounding_size=0.1", color=colour, alpha=0.35
            )
            axes.add_patch(box)
            axes.text(column + width / 2, 0.22 - line, shown(token.text), ha="center", va="center")
            axes.text(
                column + width / 2, -0.2 - line, str(token.id), ha="center", va="center", fontsize=7, color="grey"
            )
        axes.set(xlim=(-0.5, COLUMNS_OF_TOKENS + 1), ylim=(-line - 0.4, 0.6), title=title)
        axes.axis("off")
    return figure


def width_of(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def attention(weights: Attention, *, title: str, layer: int, head: int | None = None) -> "Figure":
    """The weights of one head of a layer, or of each of its heads; layers and heads are counted from 1."""
    weights_HQK = weights.weights_LHQK[layer - 1]
    heads = range(1, len(weights_HQK) + 1) if head is None else [head]
    rows, columns = ([token.text for token in tokens] for tokens in (weights.queries, weights.keys))
    num_columns = math.ceil(math.sqrt(len(heads)))
    num_rows = math.ceil(len(heads) / num_columns)
    width, height = 1.5 + max(2.5, 0.25 * len(columns)), 1.7 + max(1.5, 0.25 * len(rows))
    with fonts_for([*rows, *columns]):
        figure = new_figure(min(LONGEST_SIDE, num_columns * width + 1), min(LONGEST_SIDE, num_rows * height + 0.5))
        grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        for axes in grid[len(heads) :]:
            axes.axis("off")
        for axes, number in zip(grid, heads, strict=False):
            image = axes.imshow(weights_HQK[number - 1], cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            name_axes(axes, rows, columns)
            axes.set_title(f"head {number}")
        figure.suptitle(f"{title}, layer {layer}")
        figure.colorbar(image, ax=figure.axes, label="weight", shrink=0.6)
    return figure


def steps(steps_of_reply: Sequence[Step]) -> "Figure":
    """The likeliest next tokens at each step of a reply, the likeliest above; the chosen one has a frame."""
    number = max(len(step.likeliest) for step in steps_of_reply)
    probabilities = np.array([[probability for _, probability in step.likeliest] for step in steps_of_reply]).T
    with fonts_for(token.text for step in steps_of_reply for token, _ in step.likeliest):
        from matplotlib.patches import Rectangle

        figure = new_figure(min(60, 1.6 + 1.05 * len(steps_of_reply)), 1.6 + 0.5 * number)
        axes = figure.subplots()
        image = axes.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for column, step in enumerate(steps_of_reply):
            for row, (token, probability) in enumerate(step.likeliest):
                colour = "white" if probability > 0.5 else "black"
                text = f"{shown(token.text)}\n{probability:.1%}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
                if token.id == step.chosen.id:
                    frame = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor="tab:red")
                    axes.add_patch(frame)
        axes.set_xticks(range(len(steps_of_reply)), [shown(step.chosen.text) for step in steps_of_reply], rotation=90)
        axes.set_yticks(range(number), [str(rank) for rank in range(1, number + 1)])
        axes.set(title="The likeliest next tokens at each step", xlabel="the reply", ylabel="rank")
        figure.colorbar(image, ax=axes, label="probability", shrink=0.8)
    return figure


def beams(tree: Sequence[Beam], title: str = "Beam search") -> "Figure":
    """The tree of a beam search: what it continued, and the complete replies with their ranks."""
    depths, heights = beam_places(tree)
    with fonts_for(beam.token.text for beam in tree):
        figure = new_figure(min(60, 2 + 0.95 * (max(depths) + 1)), min(60, 1.5 + 0.5 * (max(heights) + 1)))
        axes = figure.subplots()
        for beam, depth, height in zip(tree, depths, heights, strict=True):
            if beam.parent is not None:
                axes.plot(
                    [depths[beam.parent], depth],
                    [heights[beam.parent], height],
                    color="lightgrey",
                    zorder=1,
                    linewidth=2,
                )
            box = {"boxstyle": "round", "facecolor": "lightgreen" if beam.rank == 1 else "white", "edgecolor": "grey"}
            rank = "" if beam.rank is None else f"\n#{beam.rank}"
            label = f"{shown(beam.token.text)}\n{beam.log_probability:.2f}{rank}"
            axes.text(depth, height, label, ha="center", va="center", fontsize=8, bbox=box, zorder=2)
        axes.set(xlim=(-0.6, max(depths) + 0.6), ylim=(max(heights) + 0.7, -0.7), title=title)
        axes.set_xlabel("step; below a token the log-probability of the reply up to it")
        axes.set_xticks(range(max(depths) + 1), [str(depth + 1) for depth in range(max(depths) + 1)])
        axes.set_yticks([])
    return figure
