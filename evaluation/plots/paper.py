"""What the paper draws or describes: positional encodings, masks, the learning rate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .drawing import LABELS, LONGEST_SIDE, fonts_for, name_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chatformer import ChatformerConfig
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


def masks(
    source: "Sequence[Token]", target: "Sequence[Token]", config: "ChatformerConfig", num_padding: int = 3
) -> "Figure":
    """
    What each attention may look at (Section 3.2.3), with a row of pictures for each kind of layer.

    The source is drawn with some padding behind it, as in a batch with a longer one, and the target as the decoder
    reads it.
    """
    from chatformer.sparse_attention import open_pairs

    keys = [token.text for token in source] + ["<pad>"] * num_padding
    queries = [token.text for token in target]
    is_token_K = np.arange(len(keys)) < len(source)
    cross = "Decoder to encoder: all but the padding", queries, keys, np.tile(is_token_K, (len(queries), 1))
    encoders = [pairs.numpy() & is_token_K for pairs in open_pairs(config, len(keys), is_causal=False)]
    decoders = [pairs.numpy() for pairs in open_pairs(config, len(queries), is_causal=True)]
    pictures = []
    for number, (encoder_KK, decoder_QQ) in enumerate(zip(encoders, decoders, strict=True)):
        kind = "" if config.self_attention == "full" else f" {config.self_attention},"
        layers = "" if len(encoders) == 1 else f" layers {number + 1}, {number + 1 + len(encoders)}, ...,"
        pictures.append((f"Encoder:{kind}{layers} all but the padding", keys, keys, encoder_KK))
        pictures.append((f"Decoder:{kind}{layers} nothing later", queries, queries, decoder_QQ))
        pictures.append(cross)
    side = min(LABELS + 0.2 * max(len(keys), len(queries)), LONGEST_SIDE / 3)
    with fonts_for([*keys, *queries]):
        figure = new_figure(3 * side, len(encoders) * side)
        all_axes = figure.subplots(len(encoders), 3, squeeze=False).flat
        for axes, (title, rows, columns, mask_QK) in zip(all_axes, pictures, strict=True):
            # Without "nearest": of more cells than pixels, a pixel is the mean of its cells, and no line gets lost.
            axes.imshow(mask_QK, cmap="Greys_r", vmin=-0.6, vmax=1)
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
