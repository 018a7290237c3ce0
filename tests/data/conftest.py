"""What the tests of reading data share."""

import pytest

from chatformer.data.conversations import load_conversations
from chatformer.data.messages import DataError


@pytest.fixture
def written():
    """Return a function that writes a file and returns its path."""

    def write(path, content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


@pytest.fixture
def pairs():
    """Return a function that loads data and returns the question and the answer of each conversation."""

    def load(data, **options):
        conversations = load_conversations(data, **options).conversations
        return [(question["content"], answer["content"]) for question, answer in conversations["messages"]]

    return load


@pytest.fixture
def error_of():
    """Return a function that loads data which cannot be loaded, and returns the error."""

    def load(data, **options):
        with pytest.raises(DataError) as caught:
            load_conversations(data, **options)
        return str(caught.value)

    return load
