"""Whether a model and its vocabulary fit the amount of data."""

from .findings import Above, Below, Check, Finding

SIZE = Check(
    name="size",
    bad=Above(hint=100, problem=1000),
    good="The size fits the data",
    title="The model is large for its data",
    what_to_do="Use more data, a smaller --size unless it is tiny, more --dropout, up to 0.3, or --rdrop-alpha 1.",
)
"""Measures parameters per token of the replies."""


def check_size(num_parameters: int, num_target_tokens: int) -> list[Finding]:
    """Whether a model is too large for its data."""
    ratio = num_parameters / max(num_target_tokens, 1)
    statement = f"{num_parameters:,} parameters learn from about {num_target_tokens:,} tokens of replies"
    return SIZE.findings(
        ratio,
        f"{statement}, {ratio:,.0f} for each: enough to learn every reply by heart.",
        found_if_good=f"{statement}.",
    )


VOCABULARY_SIZE = Check(
    name="vocabulary size",
    bad=Below(hint=5),
    good="The vocabulary fits the data",
    title="The vocabulary is large for the data",
    why="Such rare tokens are hardly learnt.",
)
"""Measures how often the replies have a token of the vocabulary."""


def check_vocabulary_size(vocab_size: int, num_target_tokens: int) -> list[Finding]:
    """Whether the tokens of a vocabulary are too rare in the replies to be learnt."""
    ratio = num_target_tokens / vocab_size
    smaller = max(1000, round(num_target_tokens / 10, -3))
    return VOCABULARY_SIZE.findings(
        ratio,
        f"{vocab_size:,} tokens; each occurs about {ratio:.1f} times in the replies.",
        what_to_do=f"Train again with --vocab-size {smaller}." if smaller < vocab_size else "Use more data.",
    )
