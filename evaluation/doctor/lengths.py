"""How long sources and replies are, and what limits would cut or leave out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatformer.data.exchanges import encode_exchanges
from chatformer.storage.writing import whole_file

from .conversations import Conversations
from .findings import Finding, percent, severity_of, shown, well


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Hold how long each source, which is all that was said before, and each reply is."""

    unit: Literal["characters", "tokens"]
    sources: np.ndarray
    targets: np.ndarray


def lengths_of(conversations: Conversations, tokenizer: Any | None = None) -> Lengths:
    """Measure all exchanges: in tokens, with everything that the model reads, or else in characters."""
    if tokenizer is None:
        made = conversations.exchanges
        sources = [sum(map(len, exchange.history)) for exchange in made]
        targets = [len(exchange.answer) for exchange in made]
        return Lengths(unit="characters", sources=np.array(sources), targets=np.array(targets))
    encoded = encode_exchanges(conversations.dataset, tokenizer, sys.maxsize, sys.maxsize)
    return Lengths(unit="tokens", sources=encoded.source_lengths, targets=encoded.target_lengths)


def check_lengths(
    conversations: Conversations,
    lengths: Lengths,
    *,
    max_source_tokens: int | None = None,
    max_target_tokens: int | None = None,
) -> list[Finding]:
    """Find exchanges that are far longer than the others, and what the limits, if given, would cut or leave out."""
    made = conversations.exchanges
    findings = []
    for name, values, limit, advice in (
        ("sources", lengths.sources, max_source_tokens, "--max-source-tokens"),
        ("replies", lengths.targets, max_target_tokens, "--max-target-tokens"),
    ):
        if lengths.unit == "tokens" and limit is not None:
            share = float((values > limit).mean())
            severity = severity_of(share, "too long")
            if severity != "good":
                most = int(np.ceil(np.percentile(values, 99)))
                enough = most if most > limit else int(values.max())
                fate = "lose their beginning" if name == "sources" else "are left out of the training, whole"
                findings.append(
                    Finding(
                        check="too long",
                        severity=severity,
                        title=f"{name.title()} are too long",
                        found=f"{int((values > limit).sum()):,} of {len(values):,} {name} ({percent(share)}) are "
                        f"longer than {advice} {limit}, and {fate}.",
                        what_to_do=f"{advice} {enough} would hold {'99%' if enough < values.max() else 'all'} of them; "
                        "longer ones cost memory and time.",
                        examples=shown(made[index] for index in np.flatnonzero(values > limit)),
                    )
                )
        ordinary = float(np.percentile(values, 99))
        outliers = [int(index) for index in np.argsort(-values, kind="stable") if values[index] > 5 * ordinary]
        if outliers:
            findings.append(
                Finding(
                    check="outliers",
                    severity="hint",
                    title=f"A few {name} are very long",
                    found=f"{len(outliers):,} have more than {5 * ordinary:.0f} {lengths.unit}, where 99% have at most "
                    f"{ordinary:.0f}: often it is a page that was pasted, or a row whose quotation marks are broken.",
                    what_to_do="Look at them, and leave them out if they are no conversation.",
                    examples=shown(f"{values[index]:,} {lengths.unit}, {made[index]}" for index in outliers),
                )
            )
    if findings:
        return findings
    listed = "; ".join(
        f"half of the {name} have at most {np.median(values):.0f} {lengths.unit}, 99% at most "
        f"{np.percentile(values, 99):.0f}"
        for name, values in (("sources", lengths.sources), ("replies", lengths.targets))
    )
    return well("lengths", "Lengths", f"{listed[0].upper()}{listed[1:]}.")


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
