"""Pictures: what is drawn is what was given, in fonts that have its letters."""

import itertools
import warnings

import numpy as np
import pytest
from matplotlib import font_manager

from chatformer import ChatformerConfig
from chatformer.chat.inside import Attention, Beam, Step, Token, beam_places
from chatformer.evaluation import plots
from chatformer.evaluation.plots import drawing

TOKENS = [Token(7, " 안녕", False), Token(8, "$x", False), Token(2, "<|end|>", True)]


@pytest.fixture(autouse=True)
def no_glyph_is_missing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def texts_of(figure):
    figure.canvas.draw()
    labels = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels() + axes.get_yticklabels()]
    return labels + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_attention_names_rows_and_columns_after_tokens():
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 3, 2)).astype("float32")
    drawn = Attention(weights_LHQK=weights, queries=TOKENS[:2], keys=TOKENS)
    figure = plots.attention(drawn, title="Cross", layer=2)
    heads = [axes for axes in figure.axes if axes.get_title().startswith("head")]
    assert [axes.get_title() for axes in heads] == ["head 1", "head 2", "head 3"]
    np.testing.assert_array_equal(heads[2].images[0].get_array(), weights[1, 2])
    assert [label.get_text() for label in heads[0].get_yticklabels()] == ["␣안녕", r"\$x"]
    assert len(plots.attention(drawn, title="Cross", layer=1, head=3).axes) == 2
    texts_of(figure)


def test_a_reply_is_drawn_with_its_tokens_its_steps_and_its_beams():
    assert {"␣안녕", "7", "<|end|>"} <= set(texts_of(plots.tokens(TOKENS, title="Tokens")))
    step = Step(chosen=TOKENS[1], probability=0.25, likeliest=[(TOKENS[0], 0.7), (TOKENS[1], 0.25)])
    assert {"␣안녕\n70.0%", "\\$x\n25.0%"} <= set(texts_of(plots.steps([step])))
    tree = [
        Beam(token=TOKENS[0], parent=None, log_probability=-1.0, rank=None),
        Beam(token=TOKENS[1], parent=0, log_probability=-1.5, rank=None),
        Beam(token=TOKENS[2], parent=0, log_probability=-2.0, rank=1),
    ]
    assert beam_places(tree) == ([0, 1, 1], [0.5, 0.0, 1.0])
    assert {"␣안녕\n-1.00", "<|end|>\n-2.00\n#1"} <= set(texts_of(plots.beams(tree)))


def test_no_name_or_title_is_cut_off_at_the_edge(tmp_path):
    names = ["<|start|>", *(f"␣token{number}" for number in range(8))]
    tokens = [Token(number, name, False) for number, name in enumerate(names)]
    config = ChatformerConfig(vocab_size=40, d_model=32, num_heads=4, self_attention="fixed", stride=5)
    figure = plots.masks(tokens, tokens, config)
    drawing.save(figure, tmp_path / "masks.png")
    width, height = figure.bbox.size
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_masks_hide_the_padding_and_what_comes_later():
    encoder, decoder, cross = (
        axes.images[0].get_array() for axes in plots.masks(TOKENS, TOKENS[:2], ChatformerConfig()).axes
    )
    assert encoder.shape == (6, 6) and encoder[:, :3].all() and not encoder[:, 3:].any()
    np.testing.assert_array_equal(decoder, np.tri(2))
    assert cross.shape == (2, 6) and not cross[:, 3:].any()


def test_masks_of_sparse_attention_show_the_sets_of_each_kind_of_layer():
    tokens = TOKENS * 3
    config = ChatformerConfig(self_attention="strided", stride=3)
    figure = plots.masks(tokens, tokens[:7], config)
    near, causal_near, _, far, causal_far, _ = (axes.images[0].get_array() for axes in figure.axes)
    assert near.shape == (12, 12) and np.flatnonzero(near[4]).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert np.flatnonzero(far[4]).tolist() == [1, 4, 7] and not near[:, 9:].any() and not far[:, 9:].any()
    assert np.flatnonzero(causal_near[6]).tolist() == [3, 4, 5, 6]
    assert np.flatnonzero(causal_far[6]).tolist() == [0, 3, 6]
    assert [axes.get_title() for axes in figure.axes][3:5] == [
        "Encoder: strided, layers 2, 4, ..., all but the padding",
        "Decoder: strided, layers 2, 4, ..., nothing later",
    ]


@pytest.mark.parametrize("num_tokens", [20, 100])
def test_pictures_of_many_tokens_have_smaller_cells_and_names_that_do_not_touch(num_tokens):
    tokens = [Token(8, f" token{number}", False) for number in range(num_tokens)]
    weights = np.full((1, 2, num_tokens, num_tokens), 1 / num_tokens, dtype="float32")
    config = ChatformerConfig(self_attention="strided", stride=12)
    for figure in (
        plots.masks(tokens, tokens, config, num_padding=0),
        plots.attention(Attention(weights_LHQK=weights, queries=tokens, keys=tokens), title="Encoder", layer=1),
    ):
        assert max(figure.get_size_inches()) * drawing.DPI <= 3000
        figure.draw_without_rendering()
        axes = figure.axes[0]
        for labels, side in ((axes.get_xticklabels(), "x"), (axes.get_yticklabels(), "y")):
            bounds = sorted(tuple(getattr(label.get_window_extent(), f"interval{side}")) for label in labels)
            assert all(one[1] <= other[0] for one, other in itertools.pairwise(bounds))
            assert len(labels) == num_tokens if num_tokens == 20 else 25 <= len(labels) < num_tokens
            # A name is at its own token.
            place = int(labels[1].get_position()[side == "y"])
            assert labels[1].get_text() == f"␣token{place}"
        assert bool(axes.xaxis.get_minorticklocs().size) == (num_tokens == 20)


def test_without_a_font_that_has_hangul_it_says_which_to_install(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    drawing.hangul_font.cache_clear()
    with pytest.raises(drawing.PictureError, match="fonts-nanum"):
        plots.tokens(TOKENS, title="Tokens")
    drawing.hangul_font.cache_clear()
    # Other texts need none.
    plots.tokens(TOKENS[1:], title="Tokens")
