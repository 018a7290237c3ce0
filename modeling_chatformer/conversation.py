"""The one way from a conversation to the ids of a source; training and every kind of chat go through it."""


def encode_conversation(tokenizer, messages, max_tokens=None):
    """
    Return the ids of `messages`, a list of `{"role": ..., "content": ...}`, as the tokenizer's chat template has them.

    Where they are more than `max_tokens`, whole exchanges are left out, the oldest first; a system message and the
    last user turn stay. A last turn that is too long alone loses its beginning.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system) :]
    while True:
        ids = tokenizer.apply_chat_template(
            system + turns,
            tokenize=True,
            return_dict=False,
            # The tokenizer would warn of a length that is about to be cut.
            tokenizer_kwargs={"verbose": False},
        )
        if max_tokens is None or len(ids) <= max_tokens:
            return ids
        if len(turns) <= 1:
            return ids[-max_tokens:]
        turns = turns[2:] if turns[0]["role"] == "user" else turns[1:]
