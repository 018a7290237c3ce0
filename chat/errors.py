"""What a user of a chat can put right: the message says what is wrong, and what to do."""


class ChatError(ValueError):
    """Replying is not possible."""


class ModelNotFound(ChatError):
    """There is no model to talk to; the message says what was looked for and what to do."""


class InputError(ChatError):
    """What is to be replied to cannot be read, or the replies cannot be written."""
