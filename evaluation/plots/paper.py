"""What the paper draws or describes: positional encodings, masks, the learning rate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .drawing import fonts_for, name_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chatformer.chat.inside import Token


def positions(table_PD: np.ndarray) -> "Figure":
    """The positional encodings (Section 3.5): the table, and some of its columns as waves."""
    figure = new_figure(12, 4.6)
    table, waves = figure.subplots(1, 2, width_ratios=(3, 2))
    image = table.imshow(table_PD, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    table.set(title="Positional encoding", xlabel="dimension", ylabel="position")
    figure.colorbar(image, ax=table, label="sine or cosine")
    for column in range(0, table_PD.shape[1] // 2, max(2, table_PD.shape[1] // 10 * 2)):
        waves.plot(table_PD[:, column], label=f"dimension {column}")
    waves.set(title="Waves of growing length", xlabel="position", ylim=(-1.1, 1.1))
    waves.legend(loc="upper right")
    waves.grid(alpha=0.3)
    return figure


def masks(source: "Sequence[Token]", target: "Sequence[Token]", num_padding: int = 3) -> "Figure":
    """
    What each attention may look at (Section 3.2.3).

    The source is drawn with some padding behind it, as in a batch with a longer one, and the target as the decoder
    reads it.
    """
    keys = [token.text for token in source] + ["<pad>"] * num_padding
    queries = [token.text for token in target]
    is_padding_K = np.arange(len(keys)) >= len(source)
    may_look = {
        "Encoder: all but the padding": (keys, keys, np.broadcast_to(~is_padding_K, (len(keys), len(keys)))),
        "Decoder: nothing later": (queries, queries, np.tri(len(queries), dtype=bool)),
        "Decoder to encoder: all but the padding": (
            queries,
            keys,
            np.broadcast_to(~is_padding_K, (len(queries), len(keys))),
        ),
    }
    side = 2.2 + 0.2 * max(len(keys), len(queries))
    with fonts_for([*keys, *queries]):
        figure = new_figure(3 * side, side)
        for axes, (title, (rows, columns, mask_QK)) in zip(figure.subplots(1, 3), may_look.items(), strict=True):
            axes.imshow(mask_QK, cmap="Greys_r", vmin=-0.6, vmax=1, interpolation="nearest")
            name_axes(axes, rows, columns)
            axes.set_title(title)
            axes.set(xlabel="is looked at (white) or hidden (dark)", ylabel="looks")
    return figure


def schedule(rates: Sequence[float], *, title: str, warmup_steps: int) -> "Figure":
    """The learning rate at each step, from step 1 on (Section 5.3)."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.plot(range(1, len(rates) + 1), rates)
    if 0 < warmup_steps < len(rates):
        axes.axvline(warmup_steps, color="grey", linestyle="--", label=f"end of warm-up: step {warmup_steps:,}")
        axes.legend()
    axes.set(title=title, xlabel="step", ylabel="learning rate", ylim=(0, None))
    axes.grid(alpha=0.3)
    return figure
