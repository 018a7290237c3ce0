"""Checks of the text of conversations: its characters, its marks, its languages."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache

from .conversations import Conversations
from .findings import Finding, percent, severity_of, shortened, shown, well

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
