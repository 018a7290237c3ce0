"""
What is wrong with data, in plain words: checks of conversations, each a function that returns its findings.

What is looked at is what teaches a chatbot to fail: the same again and again, answers that do not depend on their
questions, what validation would not notice, broken text (`text`), lengths that do not fit (`lengths`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .conversations import Conversations, Exchange
from .findings import SHOWN_EXAMPLES, Finding, percent, severity_of, shortened, shown, well
from .text import check_languages, check_roles, check_text

if TYPE_CHECKING:
    pass

FEW_EXCHANGES, VERY_FEW_EXCHANGES = 2000, 200


def check_conversations(conversations: Conversations) -> list[Finding]:
    """Return the findings of every check that needs nothing but the conversations."""
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


def check_amount(conversations: Conversations) -> list[Finding]:
    """Find data that is too little to learn to talk from."""
    count = len(conversations.exchanges)
    found = f"{len(conversations):,} conversations with {count:,} replies"
    if count >= FEW_EXCHANGES:
        return well("amount", "Enough to begin with", f"{found}.")
    return [
        Finding(
            check="amount",
            severity="problem" if count < VERY_FEW_EXCHANGES else "hint",
            title="There is little to learn from",
            found=f"{found}. A model that begins with random weights learns so few by heart and understands nothing "
            f"else; the smallest bots that answer new questions have seen some {FEW_EXCHANGES:,} replies.",
            what_to_do="Collect more, or add another corpus to yours. Take --size tiny for what there is, and "
            "--dropout 0.3 against learning by heart.",
        )
    ]


def check_bad_rows(rows: Sequence[dict[str, Any]], num_rows: int, *, left_out: bool) -> list[Finding]:
    """
    Tell of the rows that were no conversation, each as the loader lists it.

    `left_out` is whether training is to leave them out too.
    """
    if not rows:
        return well("bad rows", "Every row can be used")
    return [
        Finding(
            check="bad rows",
            severity="hint" if left_out else "problem",
            title="Rows that cannot be used",
            found=f"{len(rows):,} of {num_rows:,} rows are no conversation, and all else is said of the others.",
            what_to_do="Mend them, or have them left out with --skip-bad-rows, which `chatformer train` takes too.",
            examples=shown(f"{row['file']}, row {row['row']}: {row['reason']}" for row in rows),
        )
    ]


def check_labels(conversations: Conversations) -> list[Finding]:
    """Find answers that are labels of classes, and columns that were taken for one another."""
    made = conversations.exchanges
    answers = Counter(exchange.answer for exchange in made)
    numbers = sum(exchange.answer.replace(".", "", 1).isdigit() for exchange in made) / len(made)
    if numbers > 0.5 or (len(made) >= VERY_FEW_EXCHANGES and len(answers) <= 20):
        listed = ", ".join(repr(shortened(answer, 20)) for answer, _ in answers.most_common(5))
        return [
            Finding(
                check="labels",
                severity="problem",
                title="The answers look like labels",
                found=f"{len(made):,} exchanges have only {len(answers):,} different answers: {listed}. These are "
                "names of classes, as a classifier learns them, and no replies.",
                what_to_do="Name the column that holds what is to be said: --answer-column.",
            )
        ]

    def asking(texts: Iterable[str]) -> float:
        return sum(text.rstrip(" .!~\"'”’)").endswith(("?", "？")) for text in texts) / len(made)

    questions, replies = asking(exchange.question for exchange in made), asking(answers.elements())
    if replies > 0.4 and replies > 4 * questions:
        return [
            Finding(
                check="labels",
                severity="hint",
                title="Questions and answers may have changed places",
                found=f"{percent(replies)} of the answers end with a question mark, and {percent(questions)} of the "
                "questions.",
                what_to_do="Look at the data, and name the columns with --question-column and --answer-column.",
                examples=shown(made),
            )
        ]
    return well("labels", "Answers are answers")


def check_duplicates(conversations: Conversations) -> list[Finding]:
    """Find replies that stand in the data more than once behind the same turns."""
    made = conversations.exchanges
    exact = Counter((exchange.history, exchange.answer) for exchange in made)
    first: dict[Any, Exchange] = {}
    repeated = []
    for exchange in made:
        key = (exchange.source, exchange.reply)
        if key in first:
            repeated.append(f"{exchange} (also in conversation {first[key].conversation})")
        first.setdefault(key, exchange)
    num_exact = len(made) - len(exact)
    share = len(repeated) / len(made)
    found = f"{len(repeated):,} of {len(made):,} replies ({percent(share)}) stand there again behind the same turns: "
    found += f"{num_exact:,} word for word, {len(repeated) - num_exact:,} but for case and spaces."
    severity = severity_of(share, "duplicates")
    if severity == "good":
        return well("duplicates", "Few duplicates", found)
    return [
        Finding(
            check="duplicates",
            severity=severity,
            title="Duplicates",
            found=f"{found} The model learns them by heart, and says them more often than all else.",
            what_to_do="Keep one of each, unless they are meant to weigh more.",
            examples=shown(repeated),
        )
    ]


def check_many_answers(conversations: Conversations) -> list[Finding]:
    """Find equal questions with different answers, of which a model learns the average."""
    answers: dict[tuple[str, ...], dict[str, Exchange]] = defaultdict(dict)
    made = conversations.exchanges
    for exchange in made:
        answers[exchange.source].setdefault(exchange.reply, exchange)
    torn = {source: found for source, found in answers.items() if len(found) > 1}
    share = sum(exchange.source in torn for exchange in made) / len(made)
    severity = severity_of(share, "many answers")
    found = f"{len(torn):,} of {len(answers):,} questions have more than one answer; {percent(share)} of all replies "
    found += "are to them."
    if severity == "good":
        return well("many answers", "Questions have one answer each", found)
    worst = sorted(torn.values(), key=len, reverse=True)
    return [
        Finding(
            check="many answers",
            severity=severity,
            title="The same question has many answers",
            found=f"{found} Where nothing in the question tells which is right, the likeliest reply is the dullest.",
            what_to_do="Keep one answer to each question, or put into the question or a system message what decides "
            "between them: who speaks, in which mood, what went before.",
            examples=shown(
                f"{shortened(next(iter(found.values())).question)} → {len(found)} answers, such as "
                + " | ".join(shortened(exchange.answer, 30) for exchange in list(found.values())[:3])
                for found in worst
            ),
        )
    ]


def check_frequent_answers(conversations: Conversations) -> list[Finding]:
    """Find an answer so frequent that to say it always is a good guess."""
    made = conversations.exchanges
    counts = Counter(exchange.answer for exchange in made)
    (answer, count), *_ = counts.most_common(1)
    share = count / len(made)
    # Of a handful of rows any answer is a large share.
    severity = severity_of(share, "frequent answers") if count > 2 else "good"
    if severity == "good":
        found = f"{len(counts):,} different answers; the most frequent one, {shortened(answer)!r}, is {percent(share)}."
        return well("frequent answers", "No answer drowns the others", found)
    return [
        Finding(
            check="frequent answers",
            severity=severity,
            title="One answer is very frequent",
            found=f"{percent(share)} of all replies are {shortened(answer)!r}. A bot that always says the same is "
            "right that often, and that is the first thing a model finds out.",
            what_to_do="Keep a few of these exchanges and leave out the others, or vary the answer.",
            examples=shown(f"{times:,} times: {shortened(text)}" for text, times in counts.most_common(SHOWN_EXAMPLES)),
        )
    ]


def check_leaks(training: Conversations, validation: Conversations) -> list[Finding]:
    """Find what stands in both, so that validation measures memory and not understanding."""
    known = training.exchanges
    sources = {exchange.source: exchange.conversation for exchange in reversed(known)}
    pairs = {(exchange.source[-1], exchange.reply) for exchange in known}
    asked = validation.exchanges
    same_source = [exchange for exchange in asked if exchange.source in sources]
    same_pair = [
        exchange
        for exchange in asked
        if exchange.source not in sources and (exchange.source[-1], exchange.reply) in pairs
    ]
    findings = []
    share = len(same_source) / len(asked)
    if severity_of(share, "leaks") == "good":
        found = f"None of {len(asked):,} validation questions stands in the training data behind the same turns."
        findings.append(Finding(check="leaks", severity="good", title="No leaks", found=found))
    else:
        findings.append(
            Finding(
                check="leaks",
                severity=severity_of(share, "leaks"),
                title="Validation questions stand in the training data",
                found=f"{len(same_source):,} of {len(asked):,} ({percent(share)}) do, with all turns before them: "
                "what is measured on them is memory, and figures look better than the bot is.",
                what_to_do="Take them out of one side. `chatformer train` splits without leaks when it is given one "
                "file and no --validation-data.",
                examples=shown(
                    f"{exchange} (in training: conversation {sources[exchange.source]})" for exchange in same_source
                ),
            )
        )
    share = len(same_pair) / len(asked)
    if severity_of(share, "leaked answers") != "good":
        findings.append(
            Finding(
                check="leaked answers",
                severity=severity_of(share, "leaked answers"),
                title="Validation exchanges stand in the training data behind other turns",
                found=f"{len(same_pair):,} of {len(asked):,} ({percent(share)}) have a last question and an answer "
                "that the model was trained on.",
                what_to_do="Keep conversations that share exchanges on one side, in a file for --validation-data.",
                examples=shown(same_pair),
            )
        )
    return findings


def check_echoes(conversations: Conversations) -> list[Finding]:
    """Find answers that repeat their question."""
    made = conversations.exchanges
    echoes = [exchange for exchange in made if exchange.source[-1] == exchange.reply]
    share = len(echoes) / len(made)
    severity = severity_of(share, "echoes")
    if severity == "good":
        return well("echoes", "No answer repeats its question")
    return [
        Finding(
            check="echoes",
            severity=severity,
            title="Answers repeat their question",
            found=f"{len(echoes):,} of {len(made):,} ({percent(share)}) do. A bot learns to parrot.",
            what_to_do="Leave them out; if they are many, look whether the answers were read from the right column.",
            examples=shown(echoes),
        )
    ]


def check_empty_answers(conversations: Conversations) -> list[Finding]:
    """Find answers that say next to nothing: signs alone, or one character."""
    made = conversations.exchanges
    empty = [exchange for exchange in made if sum(sign.isalnum() for sign in exchange.answer) < 2]
    share = len(empty) / len(made)
    severity = severity_of(share, "empty answers")
    if severity == "good":
        found = f"{len(empty):,} of {len(made):,} are signs alone or one character."
        return well("empty answers", "Answers say something", found)
    return [
        Finding(
            check="empty answers",
            severity=severity,
            title="Answers that say next to nothing",
            found=f"{len(empty):,} of {len(made):,} ({percent(share)}) are signs alone or one character. Such a reply "
            "fits every question, so it is what a model that is not sure says.",
            what_to_do="Leave them out, but for those that are answers.",
            examples=shown(empty),
        )
    ]


def check_size(num_parameters: int, num_target_tokens: int) -> list[Finding]:
    """Find a model that is too large for its data."""
    ratio = num_parameters / max(num_target_tokens, 1)
    found = f"{num_parameters:,} parameters learn from about {num_target_tokens:,} tokens of replies"
    severity = severity_of(ratio, "parameters per token")
    if severity == "good":
        return well("size", "The size fits the data", f"{found}.")
    return [
        Finding(
            check="size",
            severity=severity,
            title="The model is large for its data",
            found=f"{found}, {ratio:,.0f} for each: enough room to learn every reply by heart.",
            what_to_do="Take a smaller --size (tiny, mini), more data, --dropout 0.3 or --rdrop-alpha 1.",
        )
    ]
