"""
What is wrong with conversations: each check is a function that returns its findings.

They look for what teaches a chatbot to fail: repetition, answers that do not depend on their questions, and what
validation would not notice. Characters, marks and languages are in `text`, lengths in `lengths`.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from chatformer.evaluation.shortening import shortened
from chatformer.pictures import PICTURE
from chatformer.storage.explaining import counted

from .conversations import Conversations, Exchange
from .findings import NUM_EXAMPLES, Above, Below, Check, Finding, percent
from .text import check_languages, check_roles, check_text


def check_conversations(conversations: Conversations) -> list[Finding]:
    """The findings of all checks that need conversations alone."""
    return [
        finding
        for check in (
            check_amount,
            check_labels,
            check_duplicates,
            check_many_answers,
            check_frequent_answers,
            check_echoes,
            check_empty_answers,
            check_text,
            check_roles,
            check_languages,
        )
        for finding in check(conversations)
    ]


FEW_EXCHANGES, VERY_FEW_EXCHANGES = 2000, 200

AMOUNT = Check(
    name="amount",
    bad=Below(hint=FEW_EXCHANGES, problem=VERY_FEW_EXCHANGES),
    good="Enough to begin with",
    title="There is little to learn from",
    why="A model learns so few by heart, and does not understand new questions; the smallest bots that answer new "
    f"questions have seen about {FEW_EXCHANGES:,} replies.",
    what_to_do="Collect more, or add another corpus. Until then, `chatformer train` plans a size and noise that suit "
    "so little: leave those flags out.",
)


def check_amount(conversations: Conversations) -> list[Finding]:
    """Whether there are enough replies to learn to talk from."""
    count = len(conversations.exchanges)
    return AMOUNT.findings(count, f"{counted(len(conversations), 'conversation')} with {counted(count, 'reply')}.")


BAD_ROWS = Check(
    name="bad rows",
    bad=Above(problem=0),
    good="Every row can be used",
    title="Rows that cannot be used",
    what_to_do="Fix them, or skip them with --skip-bad-rows, which `chatformer train` takes, too.",
)

SKIPPED_ROWS = dataclasses.replace(BAD_ROWS, bad=Above(hint=0))


def check_bad_rows(rows: Sequence[dict[str, Any]], num_rows: int, *, left_out: bool) -> list[Finding]:
    """
    Whether rows are not conversations; `rows` are those that the loader listed.

    If `left_out`, training is to skip them, too.
    """
    check = SKIPPED_ROWS if left_out else BAD_ROWS
    return check.findings(
        len(rows),
        f"{len(rows):,} of {num_rows:,} rows are not conversations; the other findings are about the rest.",
        found_if_good="",
        examples=(f"{row['file']}, row {row['row']}: {row['reason']}" for row in rows),
    )


LABELS = Check(
    name="labels",
    bad=Above(problem=0),
    title="The answers look like labels",
    why="These are class names for a classifier, not replies.",
    what_to_do="Name the column that holds the replies: --answer-column.",
)

MOSTLY_NUMBERS = 0.5
"""Share of numbers among the answers above which they are labels."""

FEW_ANSWERS = 20
"""Number of different answers to many questions up to which they are labels."""

SWAPPED_COLUMNS = Check(
    name="labels",
    bad=Above(hint=0),
    good="Answers are answers",
    title="Questions and answers may be swapped",
    what_to_do="Look at the data, and name the columns with --question-column and --answer-column.",
)

MANY_ASK, TIMES_AS_MANY_ASK = 0.4, 4
"""Share of answers with a question mark, and its ratio to that of the questions, above which they are swapped."""


def check_labels(conversations: Conversations) -> list[Finding]:
    """Whether the answers are answers: neither labels of classes nor, in swapped columns, questions."""
    exchanges = conversations.exchanges
    answers = Counter(exchange.answer for exchange in exchanges)
    numbers = sum(exchange.answer.replace(".", "", 1).isdigit() for exchange in exchanges) / len(exchanges)
    if numbers > MOSTLY_NUMBERS or (len(exchanges) >= VERY_FEW_EXCHANGES and len(answers) <= FEW_ANSWERS):
        frequent = ", ".join(repr(shortened(answer, 20)) for answer, _ in answers.most_common(5))
        statement = f"{len(exchanges):,} exchanges have only {len(answers):,} different answers: {frequent}."
        return LABELS.findings(True, statement)

    def asking(texts: Iterable[str]) -> float:
        return sum(text.rstrip(" .!~\"'”’)").endswith(("?", "？")) for text in texts) / len(exchanges)

    questions, replies = asking(exchange.question for exchange in exchanges), asking(answers.elements())
    return SWAPPED_COLUMNS.findings(
        replies > MANY_ASK and replies > TIMES_AS_MANY_ASK * questions,
        f"{percent(replies)} of the answers end with a question mark, and {percent(questions)} of the questions.",
        found_if_good="",
        examples=exchanges,
    )


DUPLICATES = Check(
    name="duplicates",
    bad=Above(hint=0.02, problem=0.25),
    good="Few duplicates",
    title="Duplicates",
    why="The model learns them by heart, and says them more often than anything else.",
    what_to_do="Keep one of each, unless they are meant to weigh more.",
)


def check_duplicates(conversations: Conversations) -> list[Finding]:
    """Whether replies occur more than once after the same turns."""
    exchanges = conversations.exchanges
    first: dict[Any, Exchange] = {}
    repetitions = []
    for exchange in exchanges:
        key = (exchange.source, exchange.reply)
        if key in first:
            repetitions.append(f"{exchange} (also in conversation {first[key].conversation})")
        first.setdefault(key, exchange)
    num_exact = len(exchanges) - len({(exchange.history, exchange.answer) for exchange in exchanges})
    share = len(repetitions) / len(exchanges)
    statement = (
        f"{len(repetitions):,} of {len(exchanges):,} replies ({percent(share)}) are repeated after the same turns: "
        f"{num_exact:,} word for word, {len(repetitions) - num_exact:,} apart from case and spaces."
    )
    return DUPLICATES.findings(share, statement, examples=repetitions)


MANY_ANSWERS = Check(
    name="many answers",
    bad=Above(hint=0.10, problem=0.50),
    good="Questions have one answer each",
    title="The same question has many answers",
    why="If nothing in the question decides between them, the likeliest reply is the dullest.",
    what_to_do="Keep one answer to each question, or put what decides between them into the question or a system "
    "message: who speaks, in which mood, what was said before.",
)


def check_many_answers(conversations: Conversations) -> list[Finding]:
    """Whether equal questions have different answers, whose average a model learns."""
    answers: dict[tuple[str, ...], dict[str, Exchange]] = defaultdict(dict)
    for exchange in conversations.exchanges:
        answers[exchange.source].setdefault(exchange.reply, exchange)
    rivals = {source: list(different.values()) for source, different in answers.items() if len(different) > 1}
    share = sum(exchange.source in rivals for exchange in conversations.exchanges) / len(conversations.exchanges)
    statement = (
        f"{len(rivals):,} of {len(answers):,} questions have more than one answer; {percent(share)} of all replies "
        "answer them."
    )
    examples = (
        f"{shortened(exchanges[0].question)} → {len(exchanges)} answers, such as "
        + " | ".join(shortened(exchange.answer, 30) for exchange in exchanges[:3])
        for exchanges in sorted(rivals.values(), key=len, reverse=True)
    )
    return MANY_ANSWERS.findings(share, statement, examples=examples)


FREQUENT_ANSWERS = Check(
    name="frequent answers",
    bad=Above(hint=0.02, problem=0.10),
    good="No answer is too frequent",
    title="One answer is very frequent",
    why="A bot that always says the same is right that often, and that is the first thing a model learns.",
    what_to_do="Keep a few of these exchanges and remove the others, or vary the answer.",
)


def check_frequent_answers(conversations: Conversations) -> list[Finding]:
    """Whether an answer is so frequent that always giving it is a good guess."""
    exchanges = conversations.exchanges
    counts = Counter(exchange.answer for exchange in exchanges)
    (answer, count), *_ = counts.most_common(1)
    share, name = count / len(exchanges), repr(shortened(answer))
    return FREQUENT_ANSWERS.findings(
        # Every answer is a large share of a handful of rows.
        share if count > 2 else 0,
        f"{percent(share)} of all replies are {name}.",
        found_if_good=f"{len(counts):,} different answers; the most frequent one, {name}, is {percent(share)}.",
        examples=(f"{times:,} times: {shortened(text)}" for text, times in counts.most_common(NUM_EXAMPLES)),
    )


LEAKS = Check(
    name="leaks",
    bad=Above(hint=0.0, problem=0.01),
    good="No leaks",
    title="Validation questions are in the training data",
    what_to_do="Remove them from one side. `chatformer train` splits without leaks if it gets one file and no "
    "--validation-data.",
)

LEAKED_ANSWERS = Check(
    name="leaked answers",
    bad=Above(hint=0.05, problem=0.25),
    title="Validation exchanges are in the training data after other turns",
    what_to_do="Keep conversations that share exchanges on the same side: split them yourself, and give the "
    "validation side as --validation-data.",
)


def check_leaks(training: Conversations, validation: Conversations) -> list[Finding]:
    """Whether the two share questions or exchanges, so that validation measures memory and not understanding."""
    sources = {exchange.source: exchange.conversation for exchange in reversed(training.exchanges)}
    pairs = {(exchange.source[-1], exchange.reply) for exchange in training.exchanges}
    same_source = [exchange for exchange in validation.exchanges if exchange.source in sources]
    same_pair = [
        exchange
        for exchange in validation.exchanges
        if exchange.source not in sources and (exchange.source[-1], exchange.reply) in pairs
    ]
    count = len(validation.exchanges)
    source_share, pair_share = len(same_source) / count, len(same_pair) / count
    return LEAKS.findings(
        source_share,
        f"{len(same_source):,} of {count:,} ({percent(source_share)}) are, with all turns before them: they measure "
        "memory, and the figures look better than the bot is.",
        found_if_good=f"None of {count:,} validation questions is in the training data after the same turns.",
        examples=(f"{exchange} (in training: conversation {sources[exchange.source]})" for exchange in same_source),
    ) + LEAKED_ANSWERS.findings(
        pair_share,
        f"{len(same_pair):,} of {count:,} ({percent(pair_share)}) have a last question and an answer that the model "
        "was trained on.",
        examples=same_pair,
    )


ECHOES = Check(
    name="echoes",
    bad=Above(hint=0.001, problem=0.05),
    good="No answer repeats its question",
    title="Answers repeat their question",
    why="A bot learns to repeat the question.",
    what_to_do="Remove them; if there are many, check that the answers were read from the right column.",
)


def check_echoes(conversations: Conversations) -> list[Finding]:
    """Whether answers repeat their question."""
    exchanges = conversations.exchanges
    echoes = [exchange for exchange in exchanges if exchange.source[-1] == exchange.reply]
    share = len(echoes) / len(exchanges)
    statement = f"{len(echoes):,} of {len(exchanges):,} ({percent(share)}) do."
    return ECHOES.findings(share, statement, found_if_good="", examples=echoes)


EMPTY_ANSWERS = Check(
    name="empty answers",
    bad=Above(hint=0.01, problem=0.20),
    good="Answers say something",
    title="Answers that say next to nothing",
    why="Such a reply fits every question, so an unsure model gives it.",
    what_to_do="Remove them, except those that are real answers.",
)


def check_empty_answers(conversations: Conversations) -> list[Finding]:
    """Whether answers are punctuation alone, or one character, and not a picture."""
    exchanges = conversations.exchanges
    empty = [
        exchange
        for exchange in exchanges
        if sum(sign.isalnum() for sign in exchange.answer) < 2 and not PICTURE.fullmatch(exchange.answer)
    ]
    share = len(empty) / len(exchanges)
    return EMPTY_ANSWERS.findings(
        share,
        f"{len(empty):,} of {len(exchanges):,} ({percent(share)}) are punctuation alone or one character.",
        found_if_good=f"{len(empty):,} of {len(exchanges):,} are punctuation alone or one character.",
        examples=empty,
    )
