import math

import numpy as np
import pytest

from chatformer.data.exchanges import encode_exchanges
from chatformer.evaluation.by_turns import figures_by_turns
from chatformer.evaluation.figures import figures_of
from chatformer.evaluation.scoring import Outcome


def conversation(num_exchanges, *, system=False):
    messages = [{"role": "system", "content": "짧게"}] if system else []
    for number in range(num_exchanges):
        messages += [
            {"role": "user", "content": f"따라 해 {number}"},
            {"role": "assistant", "content": f"네, {number}"},
        ]
    return {"messages": messages}


def outcome_for(exchanges):
    """Return made-up figures, each exchange's its own, and replies of which the second ones alone are right."""
    count = len(exchanges)
    later = np.array([len(history) > 2 for history in exchanges.histories])
    replies = [reply if "1" in reply else "?" for reply in exchanges.replies]
    nats = np.arange(1.0, count + 1)
    return Outcome(nats, nats + 1, np.where(later, nats + 2, math.nan), replies)


def test_replies_are_counted_by_the_questions_so_far(tokenizer):
    exchanges = encode_exchanges([conversation(5), conversation(2, system=True), conversation(1)], tokenizer, 200, 40)
    outcome = outcome_for(exchanges)
    by_turns = figures_by_turns(exchanges, outcome, bleu_tokenize="char")
    # A system's message is no turn, and the fifth exchange is one of "4+".
    assert {length: count for length, (count, _) in by_turns.items()} == {"1": 3, "2": 2, "3": 1, "4+": 2}
    exact = {length: figures.exact_match for length, (_, figures) in by_turns.items()}
    assert exact == {"1": 0, "2": 100, "3": 0, "4+": 0}
    assert by_turns["1"][1].history_gain is None
    (seconds,) = (index for index, history in enumerate(exchanges.histories) if history[-1]["content"] == "따라 해 2")
    assert by_turns["3"][1] == figures_of(exchanges, outcome, [seconds], bleu_tokenize="char")
    assert by_turns["3"][1].history_gain == pytest.approx(2 / math.log(2) / len("네, 2"))


def test_where_no_reply_has_a_history_there_is_nothing_to_tell(tokenizer):
    exchanges = encode_exchanges([conversation(1), conversation(1, system=True)], tokenizer, 200, 40)
    assert figures_by_turns(exchanges, outcome_for(exchanges)) == {}
