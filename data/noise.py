"""Noise on sources: other wordings of the same question, for data that is too small to have them."""

import itertools
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from .tokenizer import NUM_BYTES


class SourceNoise:
    """
    Changes sources at random, differently in each epoch.

    The changes depend only on the seed, the epoch and the source's index, so any process at any time makes the same
    ones. In this order, neighbouring words are swapped with probability `word_swap`, each merge of a word is skipped
    with probability `bpe_dropout` (Provilkov et al., 2020, arXiv:1910.13267), which makes a source longer, and tokens
    are dropped with probability `token_dropout`. Control tokens keep their places, each turn between them keeps at
    least one token, and a character that is spelt in bytes keeps all of them.
    """

    def __init__(self, tokenizer: Any, *, token_dropout: float, word_swap: float, bpe_dropout: float, seed: int):
        rates = {"token_dropout": token_dropout, "word_swap": word_swap, "bpe_dropout": bpe_dropout}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} ({rate}) must be from 0 to 1: it is a probability.")
        self.token_dropout = token_dropout
        self.word_swap = word_swap
        self.bpe_dropout = bpe_dropout
        self.seed = seed
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        vocabulary: dict[str, int] = model["vocab"]
        self._controls = frozenset(tokenizer.all_special_ids)
        self._bytes = frozenset(vocabulary[f"<0x{byte:02X}>"] for byte in range(NUM_BYTES))
        self._begins_word = frozenset(index for token, index in vocabulary.items() if token[0].isspace())
        self._characters = {
            index: [vocabulary[character] for character in token]
            for token, index in vocabulary.items()
            if index not in self._controls | self._bytes
        }
        # For a pair of neighbours: how early their merge was learnt, and its token.
        self._merges = {
            (vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right])
            for rank, (left, right) in enumerate(model["merges"])
        }

    def __call__(self, source_ids: np.ndarray, index: int, *, epoch: int) -> np.ndarray:
        """The source with this index as the model reads it in `epoch`."""
        # numpy's generator takes much longer to seed and for each number. Seeded with a text, Random returns the same
        # numbers on every machine.
        chance = Random(f"{self.seed} {epoch} {index}").random
        noised: list[int] = []
        turn: list[int] = []
        for token in source_ids.tolist():
            if token in self._controls:
                noised += self._noised_turn(turn, chance)
                noised.append(token)
                turn = []
            else:
                turn.append(token)
        noised += self._noised_turn(turn, chance)
        return np.array(noised, dtype=source_ids.dtype)

    def _noised_turn(self, turn: Sequence[int], chance: Callable[[], float]) -> list[int]:
        words = self._swapped(self._words(turn), chance)
        tokens = [token for word in words for token in self._merged(word, chance)]
        # A character in several bytes cannot lose one of them.
        kept = [token for token in tokens if token in self._bytes or chance() >= self.token_dropout]
        if tokens and not kept:
            return [tokens[int(chance() * len(tokens))]]
        return kept

    def _words(self, turn: Sequence[int]) -> list[list[int]]:
        """The tokens of each word; a token that begins with white space begins a word."""
        words: list[list[int]] = []
        for token in turn:
            if token in self._begins_word or not words:
                words.append([])
            words[-1].append(token)
        return words

    def _swapped(self, words: Sequence[list[int]], chance: Callable[[], float]) -> list[list[int]]:
        """The words in a new order, each at most one place from where it was."""
        swapped = list(words)
        position = 0
        while position < len(swapped) - 1:
            if chance() < self.word_swap:
                swapped[position : position + 2] = swapped[position + 1], swapped[position]
                position += 1
            position += 1
        return swapped

    def _merged(self, word: Sequence[int], chance: Callable[[], float]) -> list[int]:
        """
        The tokens that a word's characters are merged into, where each possible merge is skipped at random.

        Algorithm 1 of BPE-dropout: each round draws the merges to skip and applies the earliest learnt of the others,
        until none is left.
        """
        symbols = [character for token in word for character in self._characters.get(token, (token,))]
        while True:
            earliest = None
            for position, pair in enumerate(itertools.pairwise(symbols)):
                merge = self._merges.get(pair)
                if merge is not None and (earliest is None or merge[0] < earliest[0]) and chance() >= self.bpe_dropout:
                    earliest, place = merge, position
            if earliest is None:
                return symbols
            symbols[place : place + 2] = [earliest[1]]
