"""What is wrong with the text of conversations: its characters, its marks, its languages."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache

from chatformer.evaluation.shortening import shortened
from chatformer.pictures import PICTURE

from .conversations import Conversations
from .findings import Above, Check, Finding, percent, well

# Windows' Latin alphabet has characters from elsewhere in Unicode at some bytes between 0x80 and 0x9F.
_WINDOWS_SIGNS = {
    ord(sign): byte for byte in range(0x80, 0xA0) if (sign := bytes([byte]).decode("cp1252", errors="ignore"))
}
_LATIN_RUN = re.compile("[\x80-\xff" + "".join(map(chr, _WINDOWS_SIGNS)) + "]{2,}")
_WIDE_RUN = re.compile("[\u3400-\u9fff\uac00-\ud7a3]{2,}")
_HANGUL = re.compile("[\uac00-\ud7a3]{2,}")


def misread(text: str) -> str | None:
    """A piece of the text that was read in the wrong encoding, and what it says in the right one."""
    for run in _LATIN_RUN.findall(text):
        data = run.translate(_WINDOWS_SIGNS).encode("latin-1")
        for encoding in ("utf-8", "euc_kr"):
            original = data.decode(encoding, errors="replace")
            if "\ufffd" not in original and (encoding == "utf-8" or _HANGUL.fullmatch(original)):
                return f"{run} for {original}"
    for run in _WIDE_RUN.findall(text):
        original = run.encode("cp949", errors="replace").decode("utf-8", errors="backslashreplace")
        # Ordinary syllables can be letters of two bytes, but not of three.
        if min(original) >= "\u0800":
            return f"{run} for {original}"
    return None


def _first_match(pattern: str) -> Callable[[str], str | None]:
    compiled = re.compile(pattern)

    def find(text: str) -> str | None:
        match = compiled.search(text)
        return match[0] if match else None

    return find


_private_use = _first_match("[\ue000-\uf8ff\U000f0000-\U0010fffd]+")


def _broken(kind: str, what_to_do: str) -> Check:
    return Check(name="broken text", bad=Above(hint=0.0, problem=0.005), title=kind, what_to_do=what_to_do)


def _unusual(kind: str, what_to_do: str) -> Check:
    return Check(name="unusual text", bad=Above(hint=0.005, problem=0.25), title=kind, what_to_do=what_to_do)


_KINDS_OF_TEXT: tuple[tuple[Check, Callable[[str], str | None]], ...] = (
    (
        _broken(
            "Characters that were lost (U+FFFD)",
            "Get the text from its origin again; lost characters cannot be restored.",
        ),
        _first_match("\ufffd+"),
    ),
    (
        _broken(
            "Text that was read in the wrong encoding",
            "Read the original file again in its own encoding (--encoding), and save it as UTF-8.",
        ),
        misread,
    ),
    (
        _broken("Control characters", "Remove them."),
        _first_match("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+"),
    ),
    (
        _broken("Private-use characters", "They mean something in one font only: replace or remove them."),
        lambda text: None if PICTURE.fullmatch(text) else _private_use(text),
    ),
    (
        _unusual("Invisible characters", "Remove them: they make equal words different."),
        _first_match("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]+"),
    ),
    (
        _unusual("HTML", "Turn entities into characters (Python: html.unescape) and remove the tags."),
        _first_match(
            r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,5});|</?(?:a|b|br|div|em|font|i|img|li|p|span|strong|u|ul)\b[^>]*>"
        ),
    ),
    (
        _unusual("Decomposed letters (not NFC)", "Normalize the text (Python: unicodedata.normalize('NFC', text))."),
        # A decomposed Hangul syllable is up to three characters to a tokenizer.
        lambda text: None if unicodedata.is_normalized("NFC", text) else text,
    ),
    (
        _unusual(
            "Full-width letters or half-width kana and jamo",
            "Normalize the text (Python: unicodedata.normalize('NFKC', text)), so that equal words are equal.",
        ),
        _first_match("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc]+"),
    ),
)
"""Kinds of text that should not be there, and the function that finds a piece of each."""


def check_text(conversations: Conversations) -> list[Finding]:
    """Whether there are characters that should not be there, and encodings gone wrong."""
    pieces: dict[Check, list[tuple[int, str]]] = defaultdict(list)
    for number, messages in enumerate(conversations.messages, start=1):
        is_broken = False
        for check, find in _KINDS_OF_TEXT:
            # Text that was read in the wrong encoding is full of control characters, and is counted once.
            if check.name == "broken text" and is_broken:
                continue
            matches = filter(None, (find(message["content"]) for message in messages))
            if (piece := next(matches, None)) is not None:
                pieces[check].append((number, piece))
                is_broken = check.name == "broken text"
    findings: list[Finding] = []
    for check, _ in _KINDS_OF_TEXT:
        share = len(pieces[check]) / len(conversations)
        statement = f"In {len(pieces[check]):,} of {len(conversations):,} conversations ({percent(share)})."
        examples = (
            f"conversation {number}: {shortened(repr(piece).strip(repr(piece)[0]))}" for number, piece in pieces[check]
        )
        findings += check.findings(share, statement, examples=examples)
    return findings or well("broken text", "The text is intact")


_ROLE_LABEL = re.compile(
    r"\s*(?:(?:q|a|user|human|bot|assistant|system|speaker ?\d|질문|답변|대답|사용자|챗봇|상담사|화자 ?\d)\s*[:：]"
    r"|\[(?:user|bot|assistant|system|q|a)\])",
    re.IGNORECASE,
)
_CONTROL_TOKEN = re.compile(
    r"<\|[^|<>]{1,20}\|>|</?s>|\[/?INST\]|\[(?:SEP|CLS|PAD|UNK|MASK|BOS|EOS)\]|<(?:pad|unk|eos|bos|sep|turn)>", re.I
)

ROLES = Check(
    name="labels in text",
    bad=Above(hint=0.0, problem=0.05),
    good="No speakers' names within messages",
    title="Speakers' names or control tokens within messages",
    why="The chat template says who speaks; the bot learns to say what is in the text.",
    what_to_do="Remove them from the text. If one cell holds a conversation, make it a list of role and content.",
)


def check_roles(conversations: Conversations) -> list[Finding]:
    """Whether messages hold names of speakers and control tokens, which a bot would learn to say."""
    examples = []
    for number, messages in enumerate(conversations.messages, start=1):
        texts = (message["content"] for message in messages)
        text = next((text for text in texts if _ROLE_LABEL.match(text) or _CONTROL_TOKEN.search(text)), None)
        if text is not None:
            examples.append(f"conversation {number}: {shortened(text)}")
    share = len(examples) / len(conversations)
    statement = f"In {len(examples):,} of {len(conversations):,} conversations ({percent(share)})."
    return ROLES.findings(share, statement, found_if_good="", examples=examples)


_SCRIPTS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"} | {
    name: name.title()
    for name in ("HANGUL", "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI")
}


@cache
def script_of(sign: str) -> str | None:
    """The script of a letter; None for any other character."""
    if not sign.isalpha():
        return None
    first, _, rest = unicodedata.name(sign, "").partition(" ")
    if first in ("FULLWIDTH", "HALFWIDTH"):
        first = rest.split(" ")[0]
    return _SCRIPTS.get(first, "other")


def scripts_of(texts: Iterable[str]) -> Counter[str]:
    """The number of letters of each script in the texts. Han counts as Kana in Japanese."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(script for script in map(script_of, text) if script is not None)
    if counts["Kana"]:
        counts["Kana"] += counts.pop("Han", 0)
    return +counts


SECOND_SCRIPT = 0.2
"""Share of a conversation's letters from which a second script counts."""

STRAY_SCRIPT = 0.001, 0.02
"""Shares of conversations: a script below the first may be a slip, from the second on there is enough to learn."""

LANGUAGES = Check(
    name="languages",
    bad=Above(hint=0),
    good="Languages",
    title="A few conversations are in another script",
    why="So few teach nothing of a language, and take up room in the vocabulary.",
    what_to_do="Remove them, or add more of their kind.",
)


def check_languages(conversations: Conversations) -> list[Finding]:
    """Which scripts the conversations are written in, and whether some are too rare to be learnt."""
    main: Counter[str] = Counter()
    first: dict[str, str] = {}
    num_mixed = num_other_replies = 0
    for number, messages in enumerate(conversations.messages, start=1):
        counts = scripts_of(message["content"] for message in messages)
        if not counts:
            main["no letters"] += 1
            continue
        (script, _), *others = counts.most_common(2)
        main[script] += 1
        text = max((message["content"] for message in messages), key=lambda text: scripts_of([text])[script])
        first.setdefault(script, f"{script}: conversation {number}, {shortened(text)}")
        num_mixed += bool(others) and others[0][1] >= SECOND_SCRIPT * counts.total()
        question, reply = (scripts_of([message["content"]]).most_common(1) for message in messages[-2:])
        num_other_replies += bool(question and reply and question[0][0] != reply[0][0])
    total = len(conversations)
    scripts = ", ".join(f"{script} {percent(count / total)}" for script, count in main.most_common())
    statement = (
        f"Conversations by their main script: {scripts}. {percent(num_mixed / total)} mix two scripts, "
        f"{percent(num_other_replies / total)} are answered in another script than asked."
    )
    stray = [
        script
        for script, count in main.items()
        if script in first and STRAY_SCRIPT[0] <= count / total < STRAY_SCRIPT[1]
    ]
    return LANGUAGES.findings(len(stray), statement, examples=(first[script] for script in stray))
