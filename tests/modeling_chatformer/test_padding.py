import numpy as np
import pytest
import torch

from chatformer.padding import padded, padded_sources


@pytest.mark.parametrize("kind", [list, lambda ids: np.array(ids, np.int32), tuple])
def test_rows_are_filled_up_on_the_right(kind):
    rows = padded([kind([5, 6, 7]), kind([8])], -100)
    assert rows.dtype == torch.long and rows.tolist() == [[5, 6, 7], [8, -100, -100]]


@pytest.mark.parametrize("pad_token_id", [9, 0, None])
def test_the_mask_shows_the_tokens_also_where_a_source_has_the_padding_within(pad_token_id):
    pad = pad_token_id or 0
    inputs = padded_sources([[5, pad, 7], [8]], pad_token_id)
    assert inputs["input_ids"].tolist() == [[5, pad, 7], [8, pad, pad]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
