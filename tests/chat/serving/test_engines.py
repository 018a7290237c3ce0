import pytest

from chatformer.chat.chatbot import Chatbot
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import encode_conversation

TEXTS = ("따라 해 1 2", "again!", "따라 해 7 3", "처음 보는 말")


@pytest.fixture(params=["chatbot", "fast_chatbot"])
def bot(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def sources(bot):
    return [encode_conversation(bot.tokenizer, [{"role": "user", "content": text}]) for text in TEXTS]


def test_every_row_passes_on_its_own_tokens_up_to_its_end(bot, sources):
    alone = [bot.engine.generate([source], ReplySettings().search())[0] for source in sources]
    passed_on = [[] for _ in sources]
    replies = bot.engine.generate(sources, ReplySettings().search(), lambda row, token: passed_on[row].append(token))
    assert passed_on == replies == alone
    assert len({len(reply) for reply in replies}) > 1
    assert all(reply.index(bot.tokenizer.eos_token_id) == len(reply) - 1 for reply in replies)


def test_true_ends_a_row_and_no_other(bot, sources):
    whole = bot.engine.generate(sources, ReplySettings().search())
    assert min(map(len, whole)) > 2
    passed_on = [[] for _ in sources]

    def on_token(row, token):
        passed_on[row].append(token)
        return len(passed_on[row]) == {1: 1, 3: 2}.get(row)

    bot.engine.generate(sources, ReplySettings().search(), on_token)
    assert passed_on == [whole[0], whole[1][:1], whole[2], whole[3][:2]]


def test_beams_give_replies_without_padding(bot, sources):
    for reply in bot.engine.generate(sources, ReplySettings(num_beams=3).search()):
        assert reply.index(bot.tokenizer.eos_token_id) == len(reply) - 1


@pytest.mark.parametrize(
    ("settings", "used"),
    [({}, 1.3), ({"num_beams": 2}, 1.0), ({"num_beams": 2, "repetition_penalty": 1.2}, 1.2)],
    ids=["greedy", "beams", "asked for"],
)
def test_beams_of_ctranslate2_have_no_repetition_penalty_of_the_models_own(exported, monkeypatch, settings, used):
    bot = Chatbot.from_pretrained(str(exported), engine="ctranslate2", device="cpu")
    bot.engine.own_search.repetition_penalty = 1.3
    given, translator = [], bot.engine.translator

    class Noting:
        def translate_batch(self, *arguments, **options):
            given.append(options["repetition_penalty"])
            return translator.translate_batch(*arguments, **options)

    monkeypatch.setattr(bot.engine, "translator", Noting())
    assert bot.reply([{"role": "user", "content": TEXTS[0]}], ReplySettings(**settings))
    assert given == [used]


def test_no_two_rows_are_mixed(varied_chatbot):
    sources = [
        encode_conversation(
            varied_chatbot.tokenizer, [{"role": "user", "content": f"따라 해 {number // 10} {number % 10}"}]
        )
        for number in range(100)
    ]
    search = ReplySettings(no_repeat_ngram_size=1).search()
    alone = [varied_chatbot.engine.generate([source], search)[0] for source in sources]
    assert len(set(map(tuple, alone))) > 80
    passed_on = [[] for _ in sources]
    replies = varied_chatbot.engine.generate(sources, search, lambda row, token: passed_on[row].append(token))
    assert passed_on == replies == alone
