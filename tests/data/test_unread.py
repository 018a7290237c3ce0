import json

import pytest

from chatformer.data.tokenizer import train_tokenizer
from chatformer.data.unread import unread_part
from chatformer.reading import reads_history, reads_system


@pytest.fixture(scope="module")
def of_questions():
    """Return a tokenizer whose template passes on the last question alone."""
    return train_tokenizer(["따라 해 1 2"], vocab_size=550, has_history=False)


def test_what_a_template_passes_on_is_found_by_trying(tokenizer, of_questions):
    assert reads_history(tokenizer) and reads_system(tokenizer)
    assert not reads_history(of_questions) and not reads_system(of_questions)
    # Whatever the file of the template is called.
    template = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}|{% endfor %}{{ eos_token }}"
    other = train_tokenizer(["a b c"], vocab_size=550, has_history=False)
    other.chat_template = template
    assert reads_history(other) and not reads_system(other)
    newest_first = "{% for m in messages | reverse %}{{ m['content'] }}|{% endfor %}{{ eos_token }}"
    other.chat_template = newest_first
    assert reads_history(other) and reads_system(other)


def test_what_is_left_out_is_counted_by_exchanges(conversations, tokenizer, of_questions):
    assert unread_part(tokenizer, conversations) is None
    # 52 of the 152 exchanges follow others; 20 conversations have a system message, of which 10 have two exchanges.
    assert unread_part(of_questions, conversations) == (
        "the turns before a question (52 of 152 exchanges) and a system message (30 of 152 exchanges)"
    )
    single = [{"messages": conversation["messages"][-2:]} for conversation in conversations]
    assert unread_part(of_questions, single) is None


@pytest.mark.parametrize("has_history", [False, True])
def test_training_warns_of_validation_data_that_the_model_will_not_read(
    has_history, flags, train, conversations, conversations_file, tmp_path, capsys
):
    data = tmp_path / "data.jsonl"
    rows = [{"messages": made["messages"][(0 if has_history else -2) :]} for made in conversations]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    arguments = flags(tmp_path / "run", data=data, validation_data=conversations_file, max_steps=1, max_eval_replies=0)
    assert train(arguments) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "will not read" in line]
    assert len(warnings) == (0 if has_history else 1)
    assert has_history or "the turns before a question (52 of 152 exchanges)" in warnings[0]
