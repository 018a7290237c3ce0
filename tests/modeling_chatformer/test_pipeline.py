"""The pipeline takes what stock pipelines for text take, and its batches are the replies of one by one."""

import unicodedata

import datasets
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.pipelines.pt_utils import KeyDataset

from chatformer.conversation import NotText
from chatformer.pipeline_chatformer import Seq2SeqChatPipeline

TEXTS = ["따라 해 3 5", "again!", "따라 해 1 2 그리고 다시 따라 해 9 8", "고마워", "따라 해 7 0"]
CHATS = [
    [{"role": "user", "content": TEXTS[0]}],
    [
        {"role": "system", "content": "짧게"},
        {"role": "user", "content": "따라 해 2 4"},
        {"role": "assistant", "content": "네, 2 4"},
        {"role": "user", "content": "again!"},
    ],
    [{"role": "user", "content": TEXTS[4]}],
]


@pytest.fixture(scope="module")
def chat(trained):
    torch.set_num_threads(1)
    model = AutoModelForSeq2SeqLM.from_pretrained(trained)
    return Seq2SeqChatPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(trained), device="cpu")


@pytest.fixture(scope="module")
def replies(chat):
    """Return the reply to each text, one by one."""
    replies = [chat(text)["generated_text"] for text in TEXTS]
    assert len(set(replies)) > 2
    return replies


class TextDataset(torch.utils.data.Dataset):
    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        return TEXTS[index]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
@pytest.mark.parametrize(
    "inputs",
    [
        lambda: TEXTS,
        lambda: tuple(TEXTS),
        lambda: (text for text in TEXTS),
        lambda: KeyDataset(datasets.Dataset.from_dict({"text": TEXTS}), "text"),
        lambda: datasets.Dataset.from_dict({"text": TEXTS})["text"],
        TextDataset,
    ],
    ids=["list", "tuple", "generator", "KeyDataset", "column", "dataset"],
)
def test_many_texts_get_the_replies_of_one_by_one(chat, replies, inputs, batch_size):
    assert [found["generated_text"] for found in chat(inputs(), batch_size=batch_size)] == replies


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "inputs",
    [
        lambda: CHATS,
        lambda: (talk for talk in CHATS),
        lambda: KeyDataset(datasets.Dataset.from_dict({"messages": CHATS}), "messages"),
    ],
    ids=["list", "generator", "KeyDataset"],
)
def test_many_conversations_get_the_replies_of_one_by_one(chat, inputs, batch_size):
    found = [each["generated_text"] for each in chat(inputs(), batch_size=batch_size)]
    assert [talk[:-1] for talk in found] == CHATS
    assert found == [chat(talk)["generated_text"] for talk in CHATS]


def test_a_pipeline_made_for_batches_takes_one_text(trained, replies, chat):
    batched = Seq2SeqChatPipeline(model=chat.model, tokenizer=chat.tokenizer, device="cpu", batch_size=2)
    assert batched(TEXTS[0])["generated_text"] == replies[0]
    assert batched([]) == [] and list(batched(KeyDataset(datasets.Dataset.from_dict({"text": []}), "text"))) == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_several_replies_to_each_come_in_a_list(chat, batch_size):
    options = {"num_beams": 3, "num_return_sequences": 3}
    found = chat(TEXTS, batch_size=batch_size, **options)
    assert [len({reply["generated_text"] for reply in three}) for three in found] == [3] * len(TEXTS)
    assert found == [chat(text, **options) for text in TEXTS]
    talks = chat(CHATS, batch_size=batch_size, **options)
    assert all(
        reply["generated_text"][:-1] == talk for talk, three in zip(CHATS, talks, strict=True) for reply in three
    )


def test_the_options_of_a_text_pipeline(chat, replies):
    alone = chat(CHATS[0], return_full_text=False)["generated_text"]
    assert alone == replies[0]
    ids = [chat(text, return_tensors=True)["generated_token_ids"] for text in TEXTS]
    assert [found["generated_token_ids"] for found in chat(TEXTS, return_tensors=True, batch_size=5)] == ids
    assert [chat.tokenizer.decode(each, skip_special_tokens=True) for each in ids] == replies
    assert chat(TEXTS[0], skip_special_tokens=False)["generated_text"].endswith("<|end|>")
    assert chat(TEXTS[0], stop_sequence=replies[0][:1])["generated_text"] == replies[0][:1]
    assert chat(TEXTS[0], return_dict_in_generate=True, output_scores=True)["generated_text"] == replies[0]
    with pytest.raises(ValueError, match="excludes"):
        chat(TEXTS[0], return_tensors=True, return_full_text=False)


def test_decomposed_hangul_and_parts_are_the_same_text(chat):
    plain = chat.preprocess(TEXTS[0])["input_ids"]
    in_parts = [{"role": "user", "content": [{"type": "text", "text": TEXTS[0]}]}]
    for other in (unicodedata.normalize("NFD", TEXTS[0]), f" {TEXTS[0]}\r\n", in_parts):
        assert torch.equal(chat.preprocess(other)["input_ids"], plain)


@pytest.mark.parametrize(
    ("inputs", "error", "found"),
    [
        (5, ValueError, "must be a text, or a conversation"),
        ([5], ValueError, "must be a text, or a conversation"),
        ({"role": "user", "content": "a"}, ValueError, "must be a text, or a conversation"),
        ([{"role": "assistant", "content": "a"}], ValueError, "must end with a message of the role 'user'"),
        ([{"role": "user", "content": None}], NotText, "content of message 1 is missing"),
        ([{"role": "user", "content": [{"type": "image"}]}], NotText, "not text but 'image'"),
        ("\udcb0", NotText, "the byte 0xB0, which is not UTF-8"),
    ],
    ids=ascii,
)
def test_other_inputs_are_refused_by_name(chat, inputs, error, found):
    with pytest.raises(error, match=found):
        chat(inputs)
