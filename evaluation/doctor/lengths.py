"""How long sources and replies are, and what limits cut or leave out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatformer.data.exchanges import encode_exchanges
from chatformer.storage.writing import whole_file

from .conversations import Conversations, Exchange
from .findings import Above, Check, Finding, percent, well


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The lengths of sources, which are all turns before a reply, and of replies."""

    unit: Literal["characters", "tokens"]
    sources: np.ndarray
    targets: np.ndarray


def lengths_of(conversations: Conversations, tokenizer: Any | None = None) -> Lengths:
    """The lengths of all exchanges: in the tokens that the model reads, or without a tokenizer in characters."""
    if tokenizer is None:
        sources = [sum(map(len, exchange.history)) for exchange in conversations.exchanges]
        targets = [len(exchange.answer) for exchange in conversations.exchanges]
        return Lengths(unit="characters", sources=np.array(sources), targets=np.array(targets))
    encoded = encode_exchanges(conversations.dataset, tokenizer, sys.maxsize, sys.maxsize)
    return Lengths(unit="tokens", sources=encoded.source_lengths, targets=encoded.target_lengths)


SIDES = ("sources", "replies")

TOO_LONG = {
    side: Check(name="too long", bad=Above(hint=0.0, problem=0.05), title=f"{side.title()} are too long")
    for side in SIDES
}

LIMITS = {
    "sources": ("--max-source-tokens", "lose their beginning"),
    "replies": ("--max-target-tokens", "are left out of the training"),
}
"""The flag of each limit, and what happens to longer ones."""

OUTLIERS = {
    side: Check(
        name="outliers",
        bad=Above(hint=0),
        title=f"A few {side} are very long",
        why="Such a length is often that of a pasted page, or of a row with broken quotation marks.",
        what_to_do="Look at them, and remove them if they are not conversations.",
    )
    for side in SIDES
}

OUTLIER = 5
"""How many times the 99th percentile a length is, above which it is an outlier."""


def check_lengths(
    conversations: Conversations,
    lengths: Lengths,
    *,
    max_source_tokens: int | None = None,
    max_target_tokens: int | None = None,
) -> list[Finding]:
    """Whether exchanges are far longer than the others, or longer than the limits, if there are any."""
    findings: list[Finding] = []
    values_of = dict(zip(SIDES, (lengths.sources, lengths.targets), strict=True))
    for (side, values), limit in zip(values_of.items(), (max_source_tokens, max_target_tokens), strict=True):
        if lengths.unit == "tokens" and limit is not None:
            findings += _too_long(side, values, limit, conversations.exchanges)
        findings += _outliers(side, values, lengths.unit, conversations.exchanges)
    if findings:
        return findings
    summary = "; ".join(
        f"half of the {side} have at most {np.median(values):.0f} {lengths.unit}, 99% at most "
        f"{np.percentile(values, 99):.0f}"
        for side, values in values_of.items()
    )
    return well("lengths", "Lengths", f"{summary[0].upper()}{summary[1:]}.")


def _too_long(side: str, values: np.ndarray, limit: int, exchanges: Sequence[Exchange]) -> list[Finding]:
    """Whether many are longer than the limit."""
    share = float((values > limit).mean())
    most = int(np.ceil(np.percentile(values, 99)))
    enough = most if most > limit else int(values.max())
    flag, fate = LIMITS[side]
    return TOO_LONG[side].findings(
        share,
        f"{int((values > limit).sum()):,} of {len(values):,} {side} ({percent(share)}) are longer than "
        f"{flag} {limit}, and {fate}.",
        what_to_do=f"{flag} {enough} would be enough for {'99%' if enough < values.max() else 'all'} of them, and "
        "take more memory and time.",
        examples=(exchanges[int(index)] for index in np.flatnonzero(values > limit)),
    )


def _outliers(side: str, values: np.ndarray, unit: str, exchanges: Sequence[Exchange]) -> list[Finding]:
    """Whether some are far longer than the others."""
    ordinary = float(np.percentile(values, 99))
    outliers = [int(index) for index in np.argsort(-values, kind="stable") if values[index] > OUTLIER * ordinary]
    return OUTLIERS[side].findings(
        len(outliers),
        f"{len(outliers):,} have more than {OUTLIER * ordinary:.0f} {unit}, while 99% have at most {ordinary:.0f}.",
        examples=(f"{values[index]:,} {unit}, {exchanges[index]}" for index in outliers),
    )


def length_bins(lengths: Lengths) -> list[tuple[int, int, int, int]]:
    """The number of sources and replies, as (from, to, sources, replies), of the lengths 1, 2, 3-4, 5-8 and so on."""
    longest = int(max(lengths.sources.max(), lengths.targets.max()))
    bins, low, high = [], 1, 1
    while low <= longest:
        sources, replies = (
            int(((low <= values) & (values <= high)).sum()) for values in (lengths.sources, lengths.targets)
        )
        bins.append((low, high, sources, replies))
        low, high = high + 1, 2 * high
    while bins and not (bins[0][2] or bins[0][3]):
        bins.pop(0)
    return bins


def draw_lengths(lengths: Lengths, picture: Path, *, limits: Sequence[int | None] = (None, None)) -> bool:
    """Draw the lengths of sources and replies, with their limits. False if matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, title, values, limit in zip(
        figure.subplots(1, 2), ("Sources", "Replies"), (lengths.sources, lengths.targets), limits, strict=True
    ):
        # A few very long ones would squeeze all others into one bar; they are drawn at the edge.
        edge = min(int(values.max()), int(1.5 * np.percentile(values, 99.5)) + 1)
        width = -(-edge // 60)
        axes.hist(values.clip(max=edge), bins=np.arange(0.5, edge + width + 1, width))
        axes.axvline(float(np.median(values)), color="black", linewidth=1, label=f"median {np.median(values):.0f}")
        if limit is not None and lengths.unit == "tokens":
            axes.axvline(limit, color="tab:red", linestyle="--", label=f"limit {limit}")
        if longer := int((values > edge).sum()):
            title = f"{title} ({longer:,} longer than {edge} are at the edge)"
        axes.set(title=title, xlabel=lengths.unit, ylabel="exchanges", xlim=(0, edge + width + 1))
        axes.grid(alpha=0.3)
        axes.legend()
    with whole_file(picture) as partial:
        figure.savefig(partial, dpi=120, format="png")
    return True
