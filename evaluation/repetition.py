"""
Loops and doubled words, the commonest fault of a small decoder: "모든 모든 것을", "a dog and a dog and a dog".

A word twice in a row, two words twice in a row, or three words in a row that occur twice anywhere in a text count;
every longer repeated run contains one of these.

- Words are split at white space. Their case and the punctuation at their ends are ignored: "no, no" counts like
  "no no", because a decoder's loops have commas, too.
- One word on both sides of a sentence's end does not count, as in "Thank you! You are kind." and "No. No.", which
  are good language; "No. No. No. No." counts: it is two words twice in a row.
- Laughter and tears do not count: "ㅋㅋㅋ" is one word, and "ㅋㅋ ㅋㅋ" is a habit of writing, like all words that
  are spelt in Hangul letters alone instead of syllables.
- People double words, too, "아주 아주" and "la la", and describe two shirts by the same three words. The figure of
  human answers, such as those of the nearest question, shows how often: a model's is a fault as far as it is higher.
- Scripts without white space have too few words for this figure.
"""

import unicodedata

SENTENCE_ENDS = frozenset(".!?…。！？")


def repeats_itself(text: str) -> bool:
    """True if a word or two words occur twice in a row in `text`, or three words in a row occur twice."""
    words, ends_sentence = words_of(text)
    doubled = any(
        words[start] == words[start + 1] and not ends_sentence[start] and not is_laughter(words[start])
        for start in range(len(words) - 1)
    )
    pairs, triples = ([words[start : start + length] for start in range(len(words) - length + 1)] for length in (2, 3))
    doubled |= any(pair == pairs[start + 2] for start, pair in enumerate(pairs[:-2]) if not all(map(is_laughter, pair)))
    runs = [tuple(triple) for triple in triples if not all(map(is_laughter, triple))]
    return doubled or len(set(runs)) < len(runs)


def words_of(text: str) -> tuple[list[str], list[bool]]:
    """The words of `text` without case and punctuation at their ends, and whether a sentence ends after each."""
    words: list[str] = []
    ends_sentence: list[bool] = []
    for written in text.casefold().split():
        start, end = 0, len(written)
        while start < end and is_punctuation(written[start]):
            start += 1
        while start < end and is_punctuation(written[end - 1]):
            end -= 1
        if start < end:
            words.append(written[start:end])
            ends_sentence.append(not SENTENCE_ENDS.isdisjoint(written[end:]))
        elif words:
            # Punctuation with spaces around it belongs to the word before.
            ends_sentence[-1] |= not SENTENCE_ENDS.isdisjoint(written)
    return words, ends_sentence


def is_punctuation(sign: str) -> bool:
    """True if `sign` is punctuation or a symbol, an emoji included."""
    return unicodedata.category(sign)[0] in "PS"


def is_laughter(word: str) -> bool:
    """True if `word` consists of Hangul letters that form no syllable, such as ㅋㅋㅋ, ㅎㅎ and ㅠㅠ."""
    return all("\N{HANGUL LETTER KIYEOK}" <= letter <= "\N{HANGUL LETTER ARAEAE}" for letter in word)
