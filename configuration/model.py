"""The settings of the model that is trained."""

from dataclasses import dataclass
from typing import Annotated, Literal

from .declaring import AtLeast, AtMost, MoreThan, SettingsError, flag


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained."""

    architecture: Literal["transformer", "bahdanau", "seq2seq"] = "transformer"
    """The paper's Transformer, or a rung of the ladder to it: recurrent networks with Bahdanau's attention, or without
    any, seq2seq."""
    size: str | None = None
    """A named size: tiny, mini, small, or the paper's base and big; planned from the data unless given."""
    d_model: int | None = None
    """Width of the residual stream, or of a recurrent state; the size's unless given."""
    d_embedding: int | None = None
    """Width of a recurrent model's embedding; d_model unless given."""
    d_attention: int | None = None
    """Width of the layer inside Bahdanau's attention; d_model unless given."""
    d_ff: int | None = None
    """Inner width of the feed-forward network; the size's unless given."""
    num_heads: int | None = None
    """Attention heads; the size's unless given."""
    self_attention: Literal["full", "strided", "fixed"] | None = None
    """What a token looks at within its own sequence: everything, or one of the sparse sets of Child et al. (2019), for
    inputs or replies of thousands of tokens; full unless given."""
    stride: Annotated[int, AtLeast(1)] | None = None
    """Of sparse self-attention, how many tokens are near, and how far apart the others are; the root of the longest
    input or reply unless given."""
    summary_size: Annotated[int, AtLeast(1)] | None = None
    """Of fixed self-attention, so many tokens at the end of each stride are seen from everywhere; 8, or a quarter of
    the stride if that is less, unless given."""
    encoder_layers: int | None = None
    """Layers of the encoder; the size's unless given."""
    decoder_layers: int | None = None
    """Layers of the decoder; the size's unless given."""
    dropout: float | None = None
    """Dropout on sub-layers and embeddings; planned from the data unless given."""
    attention_dropout: float | None = None
    """Dropout on attention weights; the paper has none."""
    activation_dropout: float | None = None
    """Dropout inside the feed-forward network; the paper has none."""
    embedding_initializer_range: Annotated[float, MoreThan(0)] | None = None
    """Standard deviation of the embedding's first weights; the root of 1 / its width unless given."""
    repetition_penalty: Annotated[float, AtLeast(1)] = 1.1
    """Saved in generation_config.json, so that `generate()` has it: above 1, tokens that a reply already has become
    less likely, which ends loops and doubled words; 1 changes nothing."""
    temperature: Annotated[float, AtLeast(0)] | None = None
    """Saved in generation_config.json: above 0, `generate()` draws its replies, higher values more daringly. For prose
    0.8 unless given, and else 0, the likeliest token each time."""
    top_p: Annotated[float, MoreThan(0), AtMost(1)] | None = None
    """Saved too: a reply is drawn from the likeliest tokens that together have this probability; for prose 0.95 unless
    given, and else 1."""


OF_ONE_ARCHITECTURE = {
    **dict.fromkeys(
        (
            *("d_ff", "num_heads", "encoder_layers", "decoder_layers", "attention_dropout", "activation_dropout"),
            *("self_attention", "stride", "summary_size"),
        ),
        ("transformer",),
    ),
    "d_embedding": ("bahdanau", "seq2seq"),
    "d_attention": ("bahdanau",),
}
"""Settings of a model that not every architecture has, each with those that do."""

OF_SPARSE_ATTENTION = {"stride": ("strided", "fixed"), "summary_size": ("fixed",)}
"""Settings of sparse self-attention, each with the kinds that have it."""


def check_model(settings: ModelSettings) -> None:
    """Raise a `SettingsError` for a setting that the architecture or its attention does not have."""
    architecture = settings.architecture
    for name, owners in OF_ONE_ARCHITECTURE.items():
        if getattr(settings, name) is not None and architecture not in owners:
            raise SettingsError(
                f"{flag(name)} is for --architecture {' or '.join(owners)}, but the architecture is {architecture}."
            )
    found = settings.self_attention or "full"
    for name, kinds in OF_SPARSE_ATTENTION.items():
        if getattr(settings, name) is not None and found not in kinds:
            raise SettingsError(f"{flag(name)} is for --self-attention {' or '.join(kinds)}, but it is {found}.")
