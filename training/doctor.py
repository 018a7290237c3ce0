"""
What is wrong with data, in plain words: checks of conversations, each a function that returns its findings.

What is looked at is what teaches a chatbot to fail: the same again and again, answers that do not depend on their
questions, what validation would not notice, broken text, lengths that do not fit. `model_doctor` looks at models.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chatformer.data.messages import Message, exchanges

if TYPE_CHECKING:
    import datasets

Severity = Literal["good", "hint", "problem"]

SHOWN_EXAMPLES = 3

HINT_AND_PROBLEM = {
    "duplicates": (0.02, 0.25),
    "many answers": (0.10, 0.50),
    "frequent answers": (0.02, 0.10),
    "leaks": (0.0, 0.01),
    "leaked answers": (0.05, 0.25),
    "echoes": (0.001, 0.05),
    "broken text": (0.0, 0.005),
    "unusual text": (0.005, 0.25),
    "empty answers": (0.01, 0.20),
    "labels in text": (0.0, 0.05),
    "too long": (0.0, 0.05),
    "parameters per token": (100, 1000),
}
"""Above which share something is worth a hint, and above which it is a problem; parameters are no share."""

FEW_EXCHANGES, VERY_FEW_EXCHANGES = 2000, 200


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Say what a check found. `check` is its name for programs, and `what_to_do` is empty where all is well."""

    check: str
    severity: Severity
    title: str
    found: str
    what_to_do: str = ""
    examples: tuple[str, ...] = ()


def well(check: str, title: str, found: str = "") -> list[Finding]:
    """Return that a check found nothing wrong."""
    return [Finding(check=check, severity="good", title=title, found=found)]


def severity_of(share: float, check: str) -> Severity:
    """Return how bad a share is, by the bounds of a check."""
    hint, problem = HINT_AND_PROBLEM[check]
    return "problem" if share > problem else "hint" if share > hint else "good"


@dataclass(frozen=True)
class Exchange:
    """Hold a reply and what was said before it, with the number of its conversation, counted from 1."""

    conversation: int
    history: tuple[str, ...]
    answer: str

    @property
    def question(self) -> str:
        return self.history[-1]

    @cached_property
    def source(self) -> tuple[str, ...]:
        """What was said before, whatever its case and spacing."""
        return tuple(map(normal, self.history))

    @cached_property
    def reply(self) -> str:
        """The answer, whatever its case and spacing."""
        return normal(self.answer)

    def __str__(self) -> str:
        return f"conversation {self.conversation}: {shortened(self.question)} → {shortened(self.answer)}"


class Conversations:
    """Conversations as the checks look at them, read once: whole, and reply by reply. There is one at least."""

    def __init__(self, dataset: "datasets.Dataset"):
        self.dataset = dataset
        self.messages: list[list[Message]] = list(dataset["messages"])
        self.exchanges = [
            Exchange(number, tuple(message["content"] for message in history), answer)
            for number, messages in enumerate(self.messages, start=1)
            for history, answer in exchanges(messages)
        ]

    def __len__(self) -> int:
        return len(self.messages)


def normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def shortened(text: str, width: int = 60) -> str:
    # Signs that no terminal can show, and some that it would obey, are written out.
    line = "".join(sign if sign.isprintable() else f"<U+{ord(sign):04X}>" for sign in " ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def shown(found: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(example) for _, example in zip(range(SHOWN_EXAMPLES), found, strict=False))


def percent(share: float) -> str:
    if 0 < share < 1e-4:
        return "under 0.01%"
    return f"{100 * share:.0f}%" if share >= 0.1 or not share else f"{100 * share:.2g}%"


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


# In Windows' Latin alphabet some bytes between 0x80 and 0x9F are signs from elsewhere in Unicode.
_WINDOWS_SIGNS = {
    ord(sign): byte for byte in range(0x80, 0xA0) if (sign := bytes([byte]).decode("cp1252", errors="ignore"))
}
_LATIN_RUN = re.compile("[\x80-\xff" + "".join(map(chr, _WINDOWS_SIGNS)) + "]{2,}")
_WIDE_RUN = re.compile("[\u3400-\u9fff\uac00-\ud7a3]{2,}")
_HANGUL = re.compile("[\uac00-\ud7a3]{2,}")


def misread(text: str) -> str | None:
    """Return a piece of text that was read in the wrong encoding, and what it says in the right one; or None."""
    for run in _LATIN_RUN.findall(text):
        data = run.translate(_WINDOWS_SIGNS).encode("latin-1")
        for encoding in ("utf-8", "euc_kr"):
            mended = data.decode(encoding, errors="replace")
            if "\ufffd" not in mended and (encoding == "utf-8" or _HANGUL.fullmatch(mended)):
                return f"{run} for {mended}"
    for run in _WIDE_RUN.findall(text):
        mended = run.encode("cp949", errors="replace").decode("utf-8", errors="backslashreplace")
        # Syllables as they stand in any text can be letters of two bytes, but not of three.
        if min(mended) >= "\u0800":
            return f"{run} for {mended}"
    return None


def _found_by(pattern: str) -> Callable[[str], str | None]:
    compiled = re.compile(pattern)

    def find(text: str) -> str | None:
        found = compiled.search(text)
        return found[0] if found else None

    return find


_KINDS_OF_TEXT: tuple[tuple[str, str, Callable[[str], str | None], str], ...] = (
    (
        "broken text",
        "characters that were lost (U+FFFD)",
        _found_by("\ufffd+"),
        "Get the text again from where it came; what was lost cannot be restored.",
    ),
    (
        "broken text",
        "text that was read in the wrong encoding",
        misread,
        "Read the original file anew in its own encoding (--encoding), and save it as UTF-8.",
    ),
    (
        "broken text",
        "control characters",
        _found_by("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+"),
        "Remove them.",
    ),
    (
        "broken text",
        "private-use characters",
        _found_by("[\ue000-\uf8ff\U000f0000-\U0010fffd]+"),
        "They mean something in one font only: replace or remove them.",
    ),
    (
        "unusual text",
        "invisible characters",
        _found_by("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]+"),
        "Remove them: they make equal words different ones.",
    ),
    (
        "unusual text",
        "HTML",
        _found_by(
            r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,5});|</?(?:a|b|br|div|em|font|i|img|li|p|span|strong|u|ul)\b[^>]*>"
        ),
        "Turn entities into characters (Python: html.unescape) and leave out the tags.",
    ),
    (
        "unusual text",
        "letters in pieces (not NFC)",
        # A Hangul syllable in pieces is three characters to a tokenizer.
        lambda text: None if unicodedata.is_normalized("NFC", text) else text,
        "Normalize the text (Python: unicodedata.normalize('NFC', text)).",
    ),
    (
        "unusual text",
        "full-width letters or half-width kana and jamo",
        _found_by("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc]+"),
        "Normalize the text (Python: unicodedata.normalize('NFKC', text)), so that equal words are equal.",
    ),
)
"""How bad it is, what is found, how it is found, and what to do."""


def check_text(conversations: Conversations) -> list[Finding]:
    """Find characters that should not be there, and encodings gone wrong."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, messages in enumerate(conversations.messages, start=1):
        is_broken = False
        for check, kind, find, _ in _KINDS_OF_TEXT:
            # What was read in the wrong encoding is full of control characters: it is told of once.
            if check == "broken text" and is_broken:
                continue
            pieces = filter(None, (find(message["content"]) for message in messages))
            if (piece := next(pieces, None)) is not None:
                found[kind].append((number, piece))
                is_broken = check == "broken text"
    findings = []
    for check, kind, _, advice in _KINDS_OF_TEXT:
        share = len(found[kind]) / len(conversations)
        severity = severity_of(share, check)
        if severity != "good":
            findings.append(
                Finding(
                    check=check,
                    severity=severity,
                    title=f"{kind[0].upper()}{kind[1:]}",
                    found=f"In {len(found[kind]):,} of {len(conversations):,} conversations ({percent(share)}).",
                    what_to_do=advice,
                    examples=shown(
                        f"conversation {number}: {shortened(repr(piece).strip(repr(piece)[0]))}"
                        for number, piece in found[kind]
                    ),
                )
            )
    if findings:
        return findings
    return well("broken text", "The text is whole")


_ROLE_LABEL = re.compile(
    r"\s*(?:(?:q|a|user|human|bot|assistant|system|speaker ?\d|질문|답변|대답|사용자|챗봇|상담사|화자 ?\d)\s*[:：]"
    r"|\[(?:user|bot|assistant|system|q|a)\])",
    re.IGNORECASE,
)
_CONTROL_TOKEN = re.compile(
    r"<\|[^|<>]{1,20}\|>|</?s>|\[/?INST\]|\[(?:SEP|CLS|PAD|UNK|MASK|BOS|EOS)\]|<(?:pad|unk|eos|bos|sep|turn)>", re.I
)


def check_roles(conversations: Conversations) -> list[Finding]:
    """Find names of speakers and control tokens that stand within messages, where a bot would learn to say them."""
    labelled = []
    for number, messages in enumerate(conversations.messages, start=1):
        texts = [message["content"] for message in messages]
        hits = [text for text in texts if _ROLE_LABEL.match(text) or _CONTROL_TOKEN.search(text)]
        labelled += [f"conversation {number}: {shortened(text)}" for text in hits[:1]]
    share = len(labelled) / len(conversations)
    severity = severity_of(share, "labels in text")
    if severity == "good":
        return well("labels in text", "No speakers' names within messages")
    return [
        Finding(
            check="labels in text",
            severity=severity,
            title="Speakers' names or control tokens within messages",
            found=f"In {len(labelled):,} of {len(conversations):,} conversations ({percent(share)}). The chat template "
            "says who speaks; what stands in the text the bot learns to say aloud.",
            what_to_do="Leave them out of the text. Whole conversations that stand in one cell belong into lists of "
            "role and content.",
            examples=shown(labelled),
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


_SCRIPTS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"} | {
    name: name.title()
    for name in ("HANGUL", "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI")
}


@cache
def script_of(sign: str) -> str | None:
    """Return the script of a letter, or None of any other sign."""
    if not sign.isalpha():
        return None
    first, _, rest = unicodedata.name(sign, "").partition(" ")
    if first in ("FULLWIDTH", "HALFWIDTH"):
        first = rest.split(" ")[0]
    return _SCRIPTS.get(first, "other")


def scripts_of(texts: Iterable[str]) -> Counter[str]:
    """Return how many letters of each script stand in texts. Of Japanese, Han counts as Kana."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(script for script in map(script_of, text) if script is not None)
    if counts["Kana"]:
        counts["Kana"] += counts.pop("Han", 0)
    return +counts


SECOND_SCRIPT = 0.2
"""Share of a conversation's letters from which a second script counts."""

STRAY_SCRIPT = 0.001, 0.02
"""Shares of the conversations between which a script is too rare to be learnt, and too frequent to be a slip."""


def check_languages(conversations: Conversations) -> list[Finding]:
    """Find which scripts the conversations are written in, and those too rare to be learnt."""
    main: Counter[str] = Counter()
    first: dict[str, str] = {}
    mixed = num_other_replies = 0
    for number, messages in enumerate(conversations.messages, start=1):
        counts = scripts_of(message["content"] for message in messages)
        if not counts:
            main["no letters"] += 1
            continue
        (script, _), *others = counts.most_common(2)
        main[script] += 1
        text = max((message["content"] for message in messages), key=lambda text: scripts_of([text])[script])
        first.setdefault(script, f"{script}: conversation {number}, {shortened(text)}")
        mixed += bool(others) and others[0][1] >= SECOND_SCRIPT * counts.total()
        asked, answered = (scripts_of([message["content"]]).most_common(1) for message in messages[-2:])
        num_other_replies += bool(asked and answered and asked[0][0] != answered[0][0])
    total = len(conversations)
    listed = ", ".join(f"{script} {percent(count / total)}" for script, count in main.most_common())
    found = f"Conversations by their main script: {listed}. {percent(mixed / total)} mix two scripts, "
    found += f"{percent(num_other_replies / total)} are answered in another one than asked."
    stray = [
        script
        for script, count in main.items()
        if script in first and STRAY_SCRIPT[0] <= count / total < STRAY_SCRIPT[1]
    ]
    if not stray:
        return well("languages", "Languages", found)
    return [
        Finding(
            check="languages",
            severity="hint",
            title="A few conversations are in another script",
            found=f"{found} So little of a language teaches nothing of it, and takes places in the vocabulary.",
            what_to_do="Leave them out, or add more of their kind.",
            examples=shown(first[script] for script in stray),
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Hold how long each source, which is all that was said before, and each reply is."""

    unit: Literal["characters", "tokens"]
    sources: np.ndarray
    targets: np.ndarray


def lengths_of(conversations: Conversations, tokenizer: Any | None = None) -> Lengths:
    """Measure all exchanges: in tokens, with everything that the model reads, or else in characters."""
    if tokenizer is None:
        made = conversations.exchanges
        sources = [sum(map(len, exchange.history)) for exchange in made]
        targets = [len(exchange.answer) for exchange in made]
        return Lengths(unit="characters", sources=np.array(sources), targets=np.array(targets))
    import sys

    from chatformer.data.exchanges import encode_exchanges

    encoded = encode_exchanges(conversations.dataset, tokenizer, sys.maxsize, sys.maxsize)
    return Lengths(unit="tokens", sources=encoded.source_lengths, targets=encoded.target_lengths)


def check_lengths(
    conversations: Conversations,
    lengths: Lengths,
    *,
    max_source_tokens: int | None = None,
    max_target_tokens: int | None = None,
) -> list[Finding]:
    """Find exchanges that are far longer than the others, and what the limits, if given, would cut or leave out."""
    made = conversations.exchanges
    findings = []
    for name, values, limit, advice in (
        ("sources", lengths.sources, max_source_tokens, "--max-source-tokens"),
        ("replies", lengths.targets, max_target_tokens, "--max-target-tokens"),
    ):
        if lengths.unit == "tokens" and limit is not None:
            share = float((values > limit).mean())
            severity = severity_of(share, "too long")
            if severity != "good":
                most = int(np.ceil(np.percentile(values, 99)))
                enough = most if most > limit else int(values.max())
                fate = "lose their beginning" if name == "sources" else "are left out of the training, whole"
                findings.append(
                    Finding(
                        check="too long",
                        severity=severity,
                        title=f"{name.title()} are too long",
                        found=f"{int((values > limit).sum()):,} of {len(values):,} {name} ({percent(share)}) are "
                        f"longer than {advice} {limit}, and {fate}.",
                        what_to_do=f"{advice} {enough} would hold {'99%' if enough < values.max() else 'all'} of them; "
                        "longer ones cost memory and time.",
                        examples=shown(made[index] for index in np.flatnonzero(values > limit)),
                    )
                )
        ordinary = float(np.percentile(values, 99))
        outliers = [int(index) for index in np.argsort(-values, kind="stable") if values[index] > 5 * ordinary]
        if outliers:
            findings.append(
                Finding(
                    check="outliers",
                    severity="hint",
                    title=f"A few {name} are very long",
                    found=f"{len(outliers):,} have more than {5 * ordinary:.0f} {lengths.unit}, where 99% have at most "
                    f"{ordinary:.0f}: often it is a page that was pasted, or a row whose quotation marks are broken.",
                    what_to_do="Look at them, and leave them out if they are no conversation.",
                    examples=shown(f"{values[index]:,} {lengths.unit}, {made[index]}" for index in outliers),
                )
            )
    if findings:
        return findings
    listed = "; ".join(
        f"half of the {name} have at most {np.median(values):.0f} {lengths.unit}, 99% at most "
        f"{np.percentile(values, 99):.0f}"
        for name, values in (("sources", lengths.sources), ("replies", lengths.targets))
    )
    return well("lengths", "Lengths", f"{listed[0].upper()}{listed[1:]}.")


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


def length_bins(lengths: Lengths) -> list[tuple[int, int, int, int]]:
    """Return (from, to, sources, replies) for lengths in steps of powers of two: 1, 2, 3-4, 5-8 and so on."""
    longest = int(max(lengths.sources.max(), lengths.targets.max()))
    bins, low, high = [], 1, 1
    while low <= longest:
        sources, replies = (
            int(((low <= values) & (values <= high)).sum()) for values in (lengths.sources, lengths.targets)
        )
        bins.append((low, high, sources, replies))
        low, high = high + 1, 2 * high
    while bins and not (bins[0][2] or bins[0][3]):
        bins.pop(0)
    return bins


def draw_lengths(lengths: Lengths, picture: Path, *, limits: Sequence[int | None] = (None, None)) -> bool:
    """Draw how long sources and replies are, with their limits; return False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, title, values, limit in zip(
        figure.subplots(1, 2), ("Sources", "Replies"), (lengths.sources, lengths.targets), limits, strict=True
    ):
        # A few very long ones would press all others into one bar; they stand at the edge.
        edge = min(int(values.max()), int(1.5 * np.percentile(values, 99.5)) + 1)
        width = -(-edge // 60)
        axes.hist(values.clip(max=edge), bins=np.arange(0.5, edge + width + 1, width))
        axes.axvline(float(np.median(values)), color="black", linewidth=1, label=f"median {np.median(values):.0f}")
        if limit is not None and lengths.unit == "tokens":
            axes.axvline(limit, color="tab:red", linestyle="--", label=f"limit {limit}")
        if longer := int((values > edge).sum()):
            title = f"{title} ({longer:,} longer than {edge} stand at the edge)"
        axes.set(title=title, xlabel=lengths.unit, ylabel="exchanges", xlim=(0, edge + width + 1))
        axes.grid(alpha=0.3)
        axes.legend()
    aside = picture.with_suffix(".partial.png")
    figure.savefig(aside, dpi=120)
    aside.replace(picture)
    return True
