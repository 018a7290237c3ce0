"""Noise on sources: other wordings of the same question, for data too small to have them."""

import itertools
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from .tokenizer import NUM_BYTES


class SourceNoise:
    """
    Disturb sources anew in each epoch, each in the same way whenever and wherever it is asked for.

    Neighbouring words change places with probability `word_swap`, words are taken apart by leaving out each merge with
    probability `bpe_dropout` (Provilkov et al., 2020, arXiv:1910.13267), and tokens are dropped with probability
    `token_dropout`, in this order. Control tokens stay where they are, each turn between them keeps at least one token,
    and characters that are spelt in bytes stay whole. Words taken apart make a source longer.
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
        # What two neighbours become, and how early the merge was learnt.
        self._merges = {
            (vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right])
            for rank, (left, right) in enumerate(model["merges"])
        }

    def __call__(self, source_ids: np.ndarray, index: int, *, epoch: int) -> np.ndarray:
        """Return the source number `index` as the model reads it in `epoch`."""
        # Seeding numpy's generator, and each number out of it, takes much longer. Of a text Random makes the same
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
        # Of a character in several bytes no part can be dropped.
        kept = [token for token in tokens if token in self._bytes or chance() >= self.token_dropout]
        if tokens and not kept:
            return [tokens[int(chance() * len(tokens))]]
        return kept

    def _words(self, turn: Sequence[int]) -> list[list[int]]:
        """Return the tokens of each word, a new one at each white space."""
        words: list[list[int]] = []
        for token in turn:
            if token in self._begins_word or not words:
                words.append([])
            words[-1].append(token)
        return words

    def _swapped(self, words: Sequence[list[int]], chance: Callable[[], float]) -> list[list[int]]:
        """Return the words, none of them more than one place from where it was."""
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
        Return the tokens that a word's characters are merged to, each merge possible being left out by chance.

        Algorithm 1 of BPE-dropout: of the merges that are not left out now the earliest learnt is made, until all are
        left out or none is possible.
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
