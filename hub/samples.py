"""Real replies of a model, for its card and its Space."""

import re
from collections.abc import Sequence

from chatformer.chat.errors import ChatError
from chatformer.chat.media import Melody
from chatformer.chat.playing import can_play, score_of
from chatformer.pictures import PICTURE, can_draw, in_words, png_of_text
from chatformer.storage.model_folder import ModelFolder
from chatformer.storage.run_folder import Records
from chatformer.tunes import TUNE

from .errors import as_hub_error

MAX_SAMPLES = 6
GREETINGS = {"ko": "안녕하세요!", "en": "Hello!"}

Sample = tuple[str, str]
"""A question and the reply to it."""


def questions_of(records: Records) -> list[str]:
    """The few latest questions of the log, which the card may show."""
    return records.questions()[:MAX_SAMPLES]


@as_hub_error()
def sample_conversations(folder: str, questions: Sequence[str], languages: Sequence[str]) -> list[Sample]:
    """The questions, or greetings if there are none, and the model's replies to them."""
    import torch

    from chatformer.chat.engines import TransformersEngine, drawing_by, usual_search
    from chatformer.conversation import encode_conversation, max_source_tokens, turn

    greetings = [GREETINGS[name] for name in (*languages, "en") if name in GREETINGS]
    model_folder = ModelFolder.find(folder)
    model = model_folder.model(torch.float32)
    tokenizer = model_folder.tokenizer(vocab_size=model.config.vocab_size)
    engine = TransformersEngine(model, tokenizer)
    samples = []
    for question in questions or dict.fromkeys(greetings):
        source = encode_conversation(tokenizer, [turn("user", question)], max_source_tokens(tokenizer))
        # One at a time, as in a chat: in a batch, rounding may decide between two tokens that are equally likely.
        with drawing_by(0):
            (reply,) = engine.generate([source], usual_search(engine))
        samples.append((question, tokenizer.decode(reply, skip_special_tokens=True)))
    return samples


def media_files(samples: Sequence[Sample]) -> dict[str, bytes]:
    """The pictures of the replies, and the scores of their tunes, as files that the card shows, by their names."""
    texts = [text for sample in samples for text in sample]
    pictures = [picture for text in texts for picture in PICTURE.findall(text)] if can_draw() else []
    files = {f"reply_{number}.png": png_of_text(picture) for number, picture in enumerate(pictures, start=1)}
    scores = [score for text in texts for match in TUNE.finditer(text) if (score := drawn(match[0])) is not None]
    return files | {f"reply_{number}.svg": score for number, score in enumerate(scores, start=1)}


def drawn(tune: str) -> bytes | None:
    """The score of a tune; None if it cannot be drawn here."""
    try:
        return score_of(tune) if can_play() else None
    except ChatError:
        return None


def with_media_files(samples: Sequence[Sample]) -> list[Sample]:
    """
    The samples as Markdown that shows those files: in place of pictures' letters, and behind the text of tunes.

    Without Pillow, pictures are described in words.
    """
    files = media_files(samples)
    pictures, scores = (iter([name for name in files if name.endswith(suffix)]) for suffix in (".png", ".svg"))

    def with_score(match: re.Match[str]) -> str:
        return match[0] if drawn(match[0]) is None else f"{match[0]} ![{described(match[0])}]({next(scores)})"

    def described(tune: str) -> str:
        return Melody(tune).description[1:-1]

    def shown(text: str) -> str:
        text = TUNE.sub(with_score, text)
        if not can_draw():
            return in_words(text)
        return PICTURE.sub(lambda match: f"![{in_words(match[0])[1:-1]}]({next(pictures)})", text)

    return [(shown(question), shown(reply)) for question, reply in samples]
