"""The one way from a conversation to the ids of a source; training and every kind of chat go through it."""


def encode_conversation(tokenizer, messages, max_tokens=None):
    """
    Return the ids of `messages`, a list of `{"role": ..., "content": ...}`, as the tokenizer's chat template has them.

    Where they are more than `max_tokens`, whole exchanges are left out, the oldest first; a system message and the
    last user turn stay. A last turn that is too long alone loses its beginning.
    """
    (ids,) = encode_conversations(tokenizer, [messages], max_tokens)
    return ids


def encode_conversations(tokenizer, conversations, max_tokens=None):
    """Return the ids of each conversation, one or more, as `encode_conversation` does."""
    encoded = as_template(tokenizer, conversations)
    if max_tokens is None:
        return encoded
    return [
        ids if len(ids) <= max_tokens else cut(tokenizer, messages, ids, max_tokens)
        for messages, ids in zip(conversations, encoded, strict=True)
    ]


def cut(tokenizer, messages, ids, max_tokens):
    """Return the ids of as much of `messages`, whose `ids` are too many, as `max_tokens` hold."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system) :]
    while len(ids) > max_tokens:
        if len(turns) <= 1:
            return ids[-max_tokens:]
        turns = turns[2:] if turns[0]["role"] == "user" else turns[1:]
        (ids,) = as_template(tokenizer, [system + turns])
    return ids


def as_template(tokenizer, conversations):
    """Return the ids of each whole conversation."""
    return tokenizer.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=False,
        tokenizer_kwargs={
            "return_attention_mask": False,
            "return_token_type_ids": False,
            # It would warn of a length that is about to be cut.
            "verbose": False,
        },
    )
