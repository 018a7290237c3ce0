"""
A reply is a picture or words, never both, where no reply that was learnt has both.

A model that has learnt both kinds now and then puts a row of a picture into a tune, from where it does not find back.
Letters after a tensor's name are its axes: B batch, T tokens so far, V vocabulary.
"""

import re
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from .pictures import PICTURE

NEITHER = re.compile(r"[\s▁]*|<0x[0-9A-F]{2}>")
"""A token that may be part of both: spaces, or a byte of any letter."""


class OneScript(LogitsProcessor):
    """Lets a reply that has begun with words, or as a picture, go on only as it has begun."""

    is_row_by_row = True

    def __init__(self, is_picture_V: Tensor, is_word_V: Tensor):
        self.is_picture_V, self.is_word_V = is_picture_V, is_word_V

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # A model may have room for more tokens than its tokenizer has, or for fewer.
        missing = scores.shape[1] - len(self.is_picture_V)
        is_picture_V, is_word_V = (
            torch.nn.functional.pad(is_one_V.to(scores.device), (0, missing))
            for is_one_V in (self.is_picture_V, self.is_word_V)
        )
        draws_B1, says_B1 = (is_one_V[input_ids].any(1, keepdim=True) for is_one_V in (is_picture_V, is_word_V))
        # What was given as its beginning may have both.
        return scores.masked_fill((draws_B1 & ~says_B1 & is_word_V) | (says_B1 & ~draws_B1 & is_picture_V), -torch.inf)


def one_script(model: Any, tokenizer: Any) -> LogitsProcessorList:
    """What `generate()` takes as its logits_processor for a model: nothing unless its pictures stand alone."""
    if not getattr(model.config, "pictures_stand_alone", False):
        return LogitsProcessorList()
    tokens = tokenizer.get_vocab()
    is_picture_V = torch.zeros(1 + max(tokens.values()), dtype=torch.bool)
    is_word_V = is_picture_V.clone()
    specials = set(tokenizer.all_special_ids)
    for token, number in tokens.items():
        is_picture_V[number] = PICTURE.search(token) is not None
        is_word_V[number] = not (is_picture_V[number] or number in specials or NEITHER.fullmatch(token))
    return LogitsProcessorList([OneScript(is_picture_V, is_word_V)])
