"""The best of several drawn replies, by a model of the other direction: from which its question is the likeliest."""

from collections.abc import Sequence

from chatformer.conversation import encode_conversations, turn

from .chatbot import Chatbot

REPLIES_AT_ONCE = 32


class Judge:
    """A chatbot that was trained on the same pairs the other way round, such as one that names pictures."""

    def __init__(self, chatbot: Chatbot):
        self.chatbot = chatbot

    def nats(self, question: str, replies: Sequence[str]) -> list[float]:
        """How unlikely the question is to the judge after each reply."""
        engine, tokenizer = self.chatbot.engine, self.chatbot.tokenizer
        longest = self.chatbot.max_source_tokens
        target = tokenizer(text_target=question)["input_ids"]
        found: list[float] = []
        for start in range(0, len(replies), REPLIES_AT_ONCE):
            conversations = [[turn("user", reply)] for reply in replies[start : start + REPLIES_AT_ONCE]]
            sources = [ids[-longest:] if longest else ids for ids in encode_conversations(tokenizer, conversations)]
            found += engine.score(sources, [target] * len(sources))
        return found

    def best(self, question: str, replies: Sequence[str]) -> str:
        """The reply after which the question is the likeliest; the first of equals."""
        nats = self.nats(question, replies)
        return replies[nats.index(min(nats))]
