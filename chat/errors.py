"""Errors that a user of a chat can correct: the message says what is wrong and what to do."""


class ChatError(ValueError):
    """Replying is not possible."""


class ModelNotFound(ChatError):
    """There is no model to talk to."""


class InputError(ChatError):
    """The questions cannot be read, or the replies cannot be written."""
