"""How long sources and replies are, and what limits would cut or leave out."""

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
    """Hold how long each source, which is all that was said before, and each reply is."""

    unit: Literal["characters", "tokens"]
    sources: np.ndarray
    targets: np.ndarray


def lengths_of(conversations: Conversations, tokenizer: Any | None = None) -> Lengths:
    """Measure all exchanges: in tokens, with everything that the model reads, or else in characters."""
    if tokenizer is None:
        sources = [sum(map(len, exchange.history)) for exchange in conversations.exchanges]
        targets = [len(exchange.answer) for exchange in conversations.exchanges]
        return Lengths(unit="characters", sources=np.array(sources), targets=np.array(targets))
    encoded = encode_exchanges(conversations.dataset, tokenizer, sys.maxsize, sys.maxsize)
    return Lengths(unit="tokens", sources=encoded.source_lengths, targets=encoded.target_lengths)


@dataclass(frozen=True)
class _Side:
    """What is measured, the flag of its limit, and what happens to what is longer."""

    name: Literal["sources", "replies"]
    flag: str
    fate: str

    @property
    def too_long(self) -> Check:
        return Check(name="too long", bad=Above(hint=0.0, problem=0.05), title=f"{self.name.title()} are too long")

    @property
    def outliers(self) -> Check:
        return Check(
            name="outliers",
            bad=Above(hint=0),
            title=f"A few {self.name} are very long",
            what_to_do="Look at them, and leave them out if they are no conversation.",
        )


_SOURCES = _Side("sources", "--max-source-tokens", "lose their beginning")
_REPLIES = _Side("replies", "--max-target-tokens", "are left out of the training, whole")

OUTLIER = 5
"""Times the length of the 99th percentile above which an exchange is an outlier."""


def check_lengths(
    conversations: Conversations,
    lengths: Lengths,
    *,
    max_source_tokens: int | None = None,
    max_target_tokens: int | None = None,
) -> list[Finding]:
    """Whether exchanges are far longer than the others, and what the limits, if given, would cut or leave out."""
    findings: list[Finding] = []
    sides = ((_SOURCES, lengths.sources, max_source_tokens), (_REPLIES, lengths.targets, max_target_tokens))
    for side, values, limit in sides:
        if lengths.unit == "tokens" and limit is not None:
            findings += _too_long(side, values, limit, conversations.exchanges)
        findings += _outliers(side, values, lengths.unit, conversations.exchanges)
    if findings:
        return findings
    listed = "; ".join(
        f"half of the {side.name} have at most {np.median(values):.0f} {lengths.unit}, 99% at most "
        f"{np.percentile(values, 99):.0f}"
        for side, values, _ in sides
    )
    return well("lengths", "Lengths", f"{listed[0].upper()}{listed[1:]}.")


def _too_long(side: _Side, values: np.ndarray, limit: int, exchanges: Sequence[Exchange]) -> list[Finding]:
    """Whether the limit would cut or leave out too many."""
    share = float((values > limit).mean())
    most = int(np.ceil(np.percentile(values, 99)))
    enough = most if most > limit else int(values.max())
    return side.too_long.findings(
        share,
        f"{int((values > limit).sum()):,} of {len(values):,} {side.name} ({percent(share)}) are longer than "
        f"{side.flag} {limit}, and {side.fate}.",
        what_to_do=f"{side.flag} {enough} would hold {'99%' if enough < values.max() else 'all'} of them; longer ones "
        "cost memory and time.",
        examples=(exchanges[index] for index in np.flatnonzero(values > limit)),
    )


def _outliers(side: _Side, values: np.ndarray, unit: str, exchanges: Sequence[Exchange]) -> list[Finding]:
    """Whether some are far longer than the others."""
    ordinary = float(np.percentile(values, 99))
    outliers = [int(index) for index in np.argsort(-values, kind="stable") if values[index] > OUTLIER * ordinary]
    return side.outliers.findings(
        len(outliers),
        f"{len(outliers):,} have more than {OUTLIER * ordinary:.0f} {unit}, where 99% have at most {ordinary:.0f}: "
        "often it is a page that was pasted, or a row whose quotation marks are broken.",
        examples=(f"{values[index]:,} {unit}, {exchanges[index]}" for index in outliers),
    )


def length_bins(lengths: Lengths) -> list[tuple[int, int, int, int]]:
    """Return (from, to, sources, replies) for lengths in steps of powers of two: 1, 2, 3-4, 5-8 and so on."""
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
    """Draw how long sources and replies are, with their limits; return False where matplotlib is missing."""
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
        # A few very long ones would press all others into one bar; they stand at the edge.
        edge = min(int(values.max()), int(1.5 * np.percentile(values, 99.5)) + 1)
        width = -(-edge // 60)
        axes.hist(values.clip(max=edge), bins=np.arange(0.5, edge + width + 1, width))
        axes.axvline(float(np.median(values)), color="black", linewidth=1, label=f"median {np.median(values):.0f}")
        if limit is not None and lengths.unit == "tokens":
            axes.axvline(limit, color="tab:red", linestyle="--", label=f"limit {limit}")
        if longer := int((values > edge).sum()):
            title = f"{title} ({longer:,} longer than {edge} stand at the edge)"
        axes.set(title=title, xlabel=lengths.unit, ylabel="exchanges", xlim=(0, edge + width + 1))
        axes.grid(alpha=0.3)
        axes.legend()
    with whole_file(picture) as partial:
        figure.savefig(partial, dpi=120, format="png")
    return True
