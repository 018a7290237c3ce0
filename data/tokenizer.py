"""The tokenizer: byte-pair encoding learnt from the training conversations, kept in the stock fast class."""

import json
from collections import Counter
from collections.abc import Iterable
from importlib import resources

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from chatformer.pictures import COLOURS, NUMBERS
from chatformer.tunes import FIELD, GROUP, TUNE

CONTROL_TOKENS = ("<|pad|>", "<|start|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
"""Ids 0 to 5. All begin with "<|", which the chat template splits in typed text."""

NUM_BYTES = 256

# The number or the pixels of a picture's row; or a word, a number or a run of signs, with the space before it; or other
# white space.
ROWS = rf"[{NUMBERS}]|[{COLOURS}]+"
WORDS = rf" ?[\p{{L}}\p{{M}}]+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{M}}\p{{N}}{NUMBERS}{COLOURS}]+|\s+(?!\S)|\s+"
# A field of a tune's head, or notes that stand together. Only for data with tunes: other text has what looks like them.
NOTES = rf" ?{FIELD}| {GROUP}(?!\S)"


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, has_history: bool = True) -> PreTrainedTokenizerFast:
    """
    Learn a byte-pair encoding (Sennrich et al., 2016, arXiv:1508.07909) of at most `vocab_size` tokens.

    There are no unknown tokens: characters that it has not seen are spelt in bytes. Decoding gives back the text that
    was encoded, spaces and rare signs included. Without `has_history`, the chat template passes on only the last
    question, since a model that never saw a history replies worse to one.

    Raises a `ValueError` if `vocab_size` leaves no room for the control tokens, the bytes and some of the text's
    characters.
    """
    num_reserved = len(CONTROL_TOKENS) + NUM_BYTES
    if vocab_size <= 2 * num_reserved:
        raise ValueError(
            f"vocab_size must be more than {2 * num_reserved}, but it is {vocab_size}: {len(CONTROL_TOKENS)} control "
            f"tokens and {NUM_BYTES} bytes come first, and the text's own tokens need at least as many places."
        )
    tokenizer = Tokenizer(models.BPE())
    # With a space before it, a word at the beginning of a text is the same token as inside one.
    tokenizer.normalizer = normalizers.Prepend(" ")
    texts = list(texts)
    kinds = [ROWS, NOTES, WORDS] if any(TUNE.search(text) for text in texts) else [ROWS, WORDS]
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(kinds)), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    # Writing systems with many thousands of characters must leave room for merges. The alphabet is chosen here, since
    # the trainer would break ties between equally rare characters at random.
    counts = Counter(" ")
    for text in texts:
        counts.update(text)
    most_frequent = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = most_frequent[: (vocab_size - num_reserved) // 2]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - NUM_BYTES,
        min_frequency=2,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _with_byte_fallback(tokenizer)
    end = "<|end|>"
    template = "chat_template.jinja" if has_history else "question_template.jinja"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|start|>",
        eos_token=end,
        additional_special_tokens=list(CONTROL_TOKENS[3:]),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=resources.files("chatformer.data").joinpath(template).read_text("utf-8"),
    )


def _with_byte_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """
    The trained tokenizer with the 256 bytes after its control tokens.

    The trainer could take them only as special tokens, and those would be found in a text that spells "<0xEA>".
    """
    definition = json.loads(tokenizer.to_str())
    learnt = sorted(definition["model"]["vocab"], key=definition["model"]["vocab"].get)
    in_bytes = [f"<0x{byte:02X}>" for byte in range(NUM_BYTES)]
    ordered = [*CONTROL_TOKENS, *in_bytes, *(token for token in learnt if token not in CONTROL_TOKENS)]
    definition["model"]["vocab"] = {token: index for index, token in enumerate(ordered)}
    definition["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(definition))
