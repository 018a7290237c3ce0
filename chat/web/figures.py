"""
Views of a reply, the paper and the run as plotly figures, which show numbers under the mouse.

Letters after an array's name are its axes: H heads, Q queries, K keys, P positions, D dimensions.
"""

import html
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Heatmap, Scatter
from plotly.subplots import make_subplots

from chatformer.chat.inside import Attention, Beam, Step, Token, beam_places
from chatformer.configuration.configuration_chatformer import ChatformerConfig
from chatformer.sparse_attention import open_pairs

Words = Mapping[str, str]

PIXELS = 24
"""Of a cell of a heat map."""
PIXELS_AROUND_MASK = 130
"""For the title above a mask and the names of its columns below."""
LINE_OF_CHIPS = 40
"""The width of a line of tokens, in letters; a phone is a little wider."""
GRID = "rgba(136, 136, 136, 0.25)"
CHIP_COLOURS = ("#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#ede9fe", "#cffafe")


def shown(token: Token) -> str:
    """A token's text with its spaces visible, as plotly takes a text without markup."""
    return html.escape(token.text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥"), quote=False)


def new_figure(*, width: int | None, height: int, **layout: Any) -> Figure:
    """An empty figure; one without a width is as wide as the page."""
    # Paper and letters without a colour of their own are legible on a light and on a dark page.
    return Figure(
        layout={
            "width": width,
            "height": height,
            "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "#888"},
            **layout,
        }
    )


def named_axis(tokens: Sequence[Token], **options: Any) -> dict[str, Any]:
    """An axis with a token at each whole number."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(tokens))),
        "ticktext": [shown(token) for token in tokens],
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
        **options,
    }


def attention(weights: Attention, words: Words, *, layer: int, head: int) -> Figure:
    """The weights of a head of a layer, or the mean of its heads for head 0; both are counted from 1."""
    weights_HQK = weights.weights_LHQK[layer - 1]
    weights_QK = weights_HQK[head - 1] if head else weights_HQK.mean(0)
    pairs = [[[shown(query), shown(key)] for key in weights.keys] for query in weights.queries]
    figure = new_figure(
        # Wider than a phone if there are many: the page then scrolls it.
        width=max(340, 160 + PIXELS * len(weights.keys)),
        height=max(240, 140 + PIXELS * len(weights.queries)),
        xaxis=named_axis(weights.keys, side="top", tickangle=-90),
        yaxis=named_axis(weights.queries, autorange="reversed"),
    )
    return figure.add_trace(
        Heatmap(
            z=weights_QK,
            customdata=pairs,
            hovertemplate=f"%{{customdata[0]}} {words['looks_at']} %{{customdata[1]}}: %{{z:.3f}}<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": words["weight"], "side": "right"}, "thickness": 10},
        )
    )


def tokens(source: Sequence[Token], reply: Sequence[Token], words: Words) -> Figure:
    """How the texts were cut: a chip for each token, with its id below it."""
    figure = new_figure(width=380, height=100, xaxis={"visible": False}, yaxis={"visible": False})
    line = 0
    for title, part in ((words["source"], source), (words["reply"], reply)):
        figure.add_annotation(x=0, y=-line, text=title, showarrow=False, xanchor="left")
        line, column = line + 1, 0.0
        for number, token in enumerate(part):
            width = max(letters(token.text), len(str(token.id))) + 1.5
            if column and column + width > LINE_OF_CHIPS:
                line, column = line + 1, 0.0
            colour = "#e5e7eb" if token.is_special else CHIP_COLOURS[number % len(CHIP_COLOURS)]
            figure.add_annotation(
                x=column + width / 2,
                y=-line,
                text=f"{shown(token)}<br><sub>{token.id}</sub>",
                showarrow=False,
                bgcolor=colour,
                font={"color": "#111"},
                borderpad=2,
            )
            column += width
        line += 1
    # Annotations alone give a figure no axes.
    figure.add_trace(Scatter(x=[0, LINE_OF_CHIPS], y=[0.7, -line], mode="markers", opacity=0, hoverinfo="skip"))
    figure.update_layout(
        height=60 + 42 * (line + 1), xaxis_range=[0, LINE_OF_CHIPS + 1], yaxis_range=[-line, 0.7], showlegend=False
    )
    return figure


def letters(text: str) -> int:
    """The width of a text, where a letter of Korean counts twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def steps(steps_of_reply: Sequence[Step], words: Words) -> Figure:
    """The likeliest next tokens at each step, the likeliest above; the chosen one is marked."""
    number = max(len(step.likeliest) for step in steps_of_reply)
    texts = [
        [
            ("▸ " if step.likeliest[row][0] == step.chosen else "") + shown(step.likeliest[row][0])
            for step in steps_of_reply
        ]
        for row in range(number)
    ]
    figure = new_figure(
        width=max(340, 120 + 78 * len(steps_of_reply)),
        height=140 + 32 * number,
        xaxis=named_axis([step.chosen for step in steps_of_reply], side="top"),
        yaxis={"autorange": "reversed", "title": words["rank"], "dtick": 1, "showgrid": False, "zeroline": False},
    )
    return figure.add_trace(
        Heatmap(
            z=[[step.likeliest[row][1] for step in steps_of_reply] for row in range(number)],
            y=list(range(1, number + 1)),
            text=texts,
            texttemplate="%{text}<br>%{z:.1%}",
            hovertemplate="%{text}: %{z:.2%}<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )


def beams(tree: Sequence[Beam], words: Words) -> Figure:
    """The tree of a beam search; complete replies have their rank."""
    depths, heights = beam_places(tree)
    figure = new_figure(
        width=max(340, 80 * (max(depths) + 2)),
        height=int(100 + 40 * (max(heights) + 1)),
        # By itself, the axis of a wide figure would begin far before the first step.
        xaxis={
            "title": words["step"],
            "dtick": 1,
            "range": [0.3, max(depths) + 1.7],
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={"visible": False, "autorange": "reversed"},
        showlegend=False,
    )
    lines: dict[str, list[float | None]] = {"x": [], "y": []}
    for beam, depth, height in zip(tree, depths, heights, strict=True):
        if beam.parent is not None:
            lines["x"] += [depths[beam.parent] + 1, depth + 1, None]
            lines["y"] += [heights[beam.parent], height, None]
    figure.add_trace(Scatter(**lines, mode="lines", line={"color": "#bbb"}, hoverinfo="skip"))
    labels = [shown(beam.token) + ("" if beam.rank is None else f" #{beam.rank}") for beam in tree]
    return figure.add_trace(
        Scatter(
            x=[depth + 1 for depth in depths],
            y=heights,
            text=labels,
            customdata=[beam.log_probability for beam in tree],
            mode="markers+text",
            textposition="top center",
            marker={"size": 9, "color": ["#16a34a" if beam.rank == 1 else "#60a5fa" for beam in tree]},
            hovertemplate="%{text}: %{customdata:.2f}<extra></extra>",
        )
    )


def masks(
    source: Sequence[Token], target: Sequence[Token], words: Words, config: ChatformerConfig, num_padding: int = 3
) -> Figure:
    """What the encoder and the decoder may look at; the source has padding behind it, as in a batch."""
    padded = [*source, *[Token(0, "<pad>", True)] * num_padding]
    is_token_K = np.arange(len(padded)) < len(source)
    pictures = []
    for title, names, is_causal in (("encoder_mask", padded, False), ("decoder_mask", target, True)):
        kinds = open_pairs(config, len(names), is_causal=is_causal)
        for number, pairs in enumerate(kinds, start=1):
            layers = "" if len(kinds) == 1 else f" ({words['layer'].lower()} {number}, {number + len(kinds)}, ...)"
            mask = pairs.numpy() if is_causal else pairs.numpy() & is_token_K
            pictures.append((f"{words[title]}{layers}", names, mask))
    longest = max(len(names) for _, names, _ in pictures)
    heights = [PIXELS * len(names) for _, names, _ in pictures]
    height = sum(heights) + len(pictures) * PIXELS_AROUND_MASK
    figure = make_subplots(
        rows=len(pictures),
        cols=1,
        subplot_titles=[title for title, _, _ in pictures],
        row_heights=heights,
        vertical_spacing=PIXELS_AROUND_MASK / height,
    )
    # On a light page white cells could not be seen.
    colors = [(0.0, "#737373"), (1.0, "#dbeafe")]
    for row, (_, names, mask) in enumerate(pictures, start=1):
        figure.add_trace(
            Heatmap(z=mask.astype(int), colorscale=colors, zmin=0, zmax=1, showscale=False, xgap=1, ygap=1),
            row=row,
            col=1,
        )
        figure.update_xaxes(named_axis(names, tickangle=-90, domain=[0, len(names) / longest]), row=row, col=1)
        figure.update_yaxes(named_axis(names, autorange="reversed"), row=row, col=1)
    # A wide figure is scrolled on a phone: its titles are where it begins.
    figure.update_annotations(x=0, xanchor="left")
    figure.update_layout(new_figure(width=max(340, 140 + PIXELS * longest), height=height).layout)
    return figure


def positions(table_PD: np.ndarray, words: Words) -> Figure:
    """The positional encodings."""
    figure = new_figure(
        width=None,
        height=420,
        xaxis={"title": words["dimension"]},
        yaxis={"title": words["position"], "autorange": "reversed"},
    )
    return figure.add_trace(Heatmap(z=table_PD, colorscale="RdBu", zmin=-1, zmax=1, colorbar={"thickness": 10}))


def training(log: Sequence[Mapping[str, Any]], words: Words) -> Figure:
    """Loss and learning rate over the steps of a run."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True)
    for row, names in ((1, ("loss", "eval_loss")), (2, ("learning_rate",))):
        for name in names:
            lines = [line for line in log if name in line]
            figure.add_trace(
                Scatter(x=[line["step"] for line in lines], y=[line[name] for line in lines], name=words[name]),
                row=row,
                col=1,
            )
    figure.update_layout(new_figure(width=None, height=520, legend={"orientation": "h"}).layout)
    figure.update_xaxes(title=words["step"], row=2, col=1)
    # On a light and on a dark page, and behind the curves on both.
    return figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID).update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
