"""The results of ladder.py: a table in Markdown, the quality by the length of the source, the pictures."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import markdown_table

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.inside import look_inside
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import turn
from chatformer.evaluation.figures import reply_figures
from chatformer.evaluation.plots.drawing import fonts_for, name_axes, new_figure, save

TITLES = {
    "seq2seq": "seq2seq",
    "bahdanau": "+ Bahdanau's attention",
    "transformer": "Transformer",
    "strided": "Transformer, strided",
}
METRICS = {"bleu": "BLEU", "chrf": "chrF"}
FEWEST = 50
"""Exchanges of a group of lengths: a figure of fewer is chance."""
MOST_GROUPS = 6

Items = list[dict[str, Any]]


def markdown(
    title: str,
    metric: str,
    seeds: Sequence[int],
    results: Mapping[str, list[dict[str, float]]],
    speeds: Mapping[str, float],
    by_length: Mapping[str, Mapping[str, float]],
) -> str:
    """Both tables; where there are several seeds, the figures of each."""

    def each(name: str, rung: str, form: str) -> str:
        return " / ".join(format(result[name], form) for result in results[rung])

    columns = ["rung", "parameters", "tokens/s, training", "tokens/s, generation", "minutes", "bits per character"]
    rows = [
        [
            TITLES[rung],
            f"{of_seeds[0]['parameters'] / 1e6:.1f} M",
            each("training_tokens_per_second", rung, ",.0f"),
            f"{speeds[rung]:,.0f}",
            each("minutes", rung, ".1f"),
            each("bits_per_character", rung, ".3f"),
            each(metric, rung, ".1f"),
            each("exact_match", rung, ".1f") + "%",
        ]
        for rung, of_seeds in results.items()
    ]
    steps = next(iter(results.values()))[0]["steps"]
    seeds_text = f"seed{'s' if len(seeds) > 1 else ''} {' / '.join(map(str, seeds))}"
    groups = list(next(iter(by_length.values())))
    lengths = [[TITLES[rung], *(f"{by_length[rung][group]:.1f}" for group in groups)] for rung in results]
    return (
        f"{title[0].upper()}{title[1:]}, {steps:,} steps, {seeds_text}:\n\n"
        + markdown_table([*columns, METRICS[metric], "exact"], rows)
        + f"\n{METRICS[metric]} by the words of the source:\n\n"
        + markdown_table(["rung", *groups], lengths)
    )


def words_of_source(items: Items) -> np.ndarray:
    """The number of words of each exchange's last question."""
    return np.array([len(item["history"][-1]["content"].split()) for item in items])


def groups_by_length(items: Items, fewest: int = FEWEST) -> dict[str, tuple[int, int]]:
    """Groups of about the same size by the words of the source: names, and the lengths from and below which."""
    lengths = words_of_source(items)
    number = max(1, min(MOST_GROUPS, len(items) // fewest))
    quantiles = np.quantile(lengths, np.linspace(0, 1, number, endpoint=False), method="lower")
    # A length belongs to one group: equal bounds are one.
    bounds = [*np.unique(quantiles).tolist(), int(lengths.max()) + 1]
    return {
        f"{low}" if high - low == 1 else f"{low} to {high - 1}": (low, high) for low, high in itertools.pairwise(bounds)
    }


def results_by_length(items: Mapping[str, list[Items]], metric: str) -> dict[str, dict[str, float]]:
    """The metric of each rung in each group of lengths, the mean over the seeds, whose exchanges may differ."""
    first_rung = next(iter(items.values()))
    groups = groups_by_length(list(itertools.chain.from_iterable(first_rung)), FEWEST * len(first_rung))

    def figure(of_seed: Items, low: int, high: int) -> float:
        lengths = words_of_source(of_seed)
        drawn = [of_seed[index] for index in np.flatnonzero((low <= lengths) & (lengths < high))]
        replies, references = ([item[name] for item in drawn] for name in ("reply", "reference"))
        return float(getattr(reply_figures(replies, references, bleu_tokenize="none"), metric))

    return {
        rung: {
            group: float(np.mean([figure(of_seed, *bounds) for of_seed in of_seeds]))
            for group, bounds in groups.items()
        }
        for rung, of_seeds in items.items()
    }


def length_picture(by_length: Mapping[str, Mapping[str, float]], metric: str, title: str, file: Path) -> None:
    """Draw the metric by the length of the source, a line for each rung."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for rung, figures in by_length.items():
        axes.plot(list(figures), list(figures.values()), "o-", label=TITLES[rung])
    axes.set(title=title, xlabel="words of the source", ylabel=METRICS[metric], ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, file)


def attention_picture(chatbots: Mapping[str, Chatbot], sentence: str, file: Path) -> None:
    """Draw where each rung looked in the sentence for each token of its reply, the mean of the last layer's heads."""
    found = {}
    for rung, chatbot in chatbots.items():
        answer = chatbot.answer([turn("user", sentence)], ReplySettings(max_new_tokens=40))
        engine: Any = chatbot.engine
        found[rung] = look_inside(engine.model, chatbot.tokenizer, answer.source_ids, answer.reply_ids)
    names = [token.text for inside in found.values() for token in (*inside.source, *inside.reply)]
    with fonts_for(names):
        num_rows = max(len(inside.reply) for inside in found.values())
        figure = new_figure(5 * len(found), 2.5 + 0.3 * num_rows)
        for axes, (rung, inside) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            axes.set_title(TITLES[rung])
            rows = [token.text for token in inside.reply]
            if "cross" in inside.attentions:
                weights_QK = inside.attentions["cross"].weights_LHQK[-1].mean(0)
                axes.imshow(weights_QK, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
                name_axes(axes, rows, [token.text for token in inside.source])
                continue
            # It has no attention: its reply alone.
            axes.imshow(np.zeros((len(rows), 1)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
            name_axes(axes, rows, ["state"])
        save(figure, file)
