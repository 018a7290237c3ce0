"""
What a tune or a picture is asked for by: sentences in Korean and in English.

One for a tune names some of its headers, and one for a picture what it shows.
"""

import re
from random import Random
from typing import NamedTuple

RHYTHMS = {
    "slip jig": "슬립 지그",
    "jig": "지그",
    "reel": "릴",
    "hornpipe": "혼파이프",
    "strathspey": "스트라스페이",
    "waltz": "왈츠",
    "march": "행진곡",
    "quickstep": "퀵스텝",
    "polka": "폴카",
    "minuet": "미뉴에트",
    "clog": "클로그",
    "highland fling": "하일랜드 플링",
    "walk around": "워크어라운드",
    "slide": "슬라이드",
    "gavotte": "가보트",
    "air": "에어",
    "song": "노래",
}
"""The kinds of tunes, each before those whose names are in its own."""

ORIGINS = {
    "Ireland": "아일랜드",
    "America": "미국",
    "Scotland": "스코틀랜드",
    "Germany": "독일",
    "Luxembourg": "룩셈부르크",
    "Lorraine": "로렌",
    "France": "프랑스",
    "the Netherlands": "네덜란드",
    "Poland": "폴란드",
    "China": "중국",
}

TONICS = {"C": "다", "D": "라", "E": "마", "F": "바", "G": "사", "A": "가", "B": "나"}
MODES = {
    "": ("major", "장조"),
    "m": ("minor", "단조"),
    "mix": ("mixolydian", "믹솔리디안"),
    "dor": ("dorian", "도리안"),
    "phr": ("phrygian", "프리지안"),
    "lyd": ("lydian", "리디안"),
}
"""By what ABC has behind a tonic, the mode in English and in Korean."""

PLAY = ("Play me", "Play", "I would like to hear", "Can you play", "Write me", "Let me hear", "Compose")
PLAY_KO = ("들려줘", "연주해 줘", "틀어 줘", "들려주세요", "지어 줘", "만들어 줘", "듣고 싶어")

DRAW = (
    "Draw {}",
    "Draw {}.",
    "Draw me {}",
    "Please draw {}.",
    "Can you draw {}?",
    "Show me {}",
    "A picture of {}",
    "I want to see {}.",
)
DRAW_KO = (
    "{} 그려 줘",
    "{} 그려줘",
    "{} 그려 주세요",
    "{} 하나 그려 줘",
    "{} 그림 그려 줘",
    "{} 그려 줄래?",
    "{} 그림 보여 줘",
    "{} 보고 싶어",
    "{}{을} 그려 줘",
    "{}{을} 그려줘",
    "{}{을} 그려 주세요",
)
"""{을} is the particle of an object, 을 or 를."""

SHARES = {"title": 0.35, "rhythm": 0.75, "key": 0.6, "metre": 0.6, "origin": 0.25}
"""How often a wish says what."""
SHORT = 0.2
"""How often a wish says only the rhythm, as most people ask."""


class Headers(NamedTuple):
    """What a wish may say of a tune; "" is unknown."""

    title: str = ""
    rhythm: str = ""
    key: str = ""
    """As ABC has it, such as Am."""
    metre: str = ""
    origin: str = ""


def some_of(headers: Headers, chance: Random) -> Headers:
    """The headers without those that a wish leaves to the model."""
    if headers.rhythm and chance.random() < SHORT:
        return Headers(rhythm=headers.rhythm)
    return Headers(*(value if chance.random() < SHARES[name] else "" for name, value in headers._asdict().items()))


def in_english(headers: Headers, chance: Random) -> str:
    """A wish in English."""
    noun = headers.rhythm or "tune"
    title = f' called "{headers.title}"' if headers.title else ""
    key = f" in {key_in_english(headers.key)}" if headers.key else ""
    metre = f" in {headers.metre}" if headers.metre else ""
    origin = f" from {headers.origin}" if headers.origin else ""
    details = [key, metre, origin]
    chance.shuffle(details)
    play = chance.choice(PLAY)
    end = "?" if play.startswith("Can") else chance.choice((".", ""))
    return f"{play} {'an' if noun[0] in 'aeiou' else 'a'} {noun}{title}{''.join(details)}{end}"


def in_korean(headers: Headers, chance: Random) -> str:
    """A wish in Korean."""
    noun = RHYTHMS[headers.rhythm] if headers.rhythm else "곡"
    title = f'"{headers.title}"라는 ' if headers.title else ""
    details = [
        f"{ORIGINS[headers.origin]} " if headers.origin else "",
        f"{key_in_korean(headers.key)} " if headers.key else "",
        f"{headers.metre}박자 " if headers.metre else "",
    ]
    chance.shuffle(details)
    return f"{title}{''.join(details)}{noun} {chance.choice(('하나', '한 곡'))} {chance.choice(PLAY_KO)}"


def for_picture_in_english(name: str, chance: Random) -> str:
    """A wish for a picture in English, with an article or, as one types, without."""
    article = chance.choice(("an " if name[0] in "aeiou" else "a ", ""))
    return chance.choice(DRAW).format(article + name)


def for_picture_in_korean(name: str, chance: Random) -> str:
    """A wish for a picture in Korean."""
    return chance.choice(DRAW_KO).format(name, 을=object_particle(name))


def object_particle(name: str) -> str:
    """을 behind a final consonant, 를 behind a vowel; "" behind what is no Korean syllable."""
    place = ord(name[-1]) - ord("가")
    if not 0 <= place <= ord("힣") - ord("가"):
        return ""
    # A syllable has one of 27 finals, or none.
    return "을" if place % 28 else "를"


def key_in_english(key: str) -> str:
    """A key, such as A minor."""
    tonic, mode = parts_of_key(key)
    return f"{tonic[0]}{ {'': '', 'b': ' flat', '#': ' sharp'}[tonic[1:]] } {MODES[mode][0]}"


def key_in_korean(key: str) -> str:
    """A key, such as 가단조; a church mode, such as A 도리안."""
    tonic, mode = parts_of_key(key)
    if mode in ("", "m"):
        return f"{ {'': '', 'b': '내림', '#': '올림'}[tonic[1:]] }{TONICS[tonic[0]]}{MODES[mode][1]}"
    return f"{tonic} {MODES[mode][1]}"


def parts_of_key(key: str) -> tuple[str, str]:
    tonic = key[:2] if key[1:2] in ("b", "#") else key[:1]
    return tonic, key[len(tonic) :]


def asked_in(wish: str) -> Headers:
    """What a wish says of a tune, but for its title."""
    text = re.sub('"[^"]*"', " ", wish)
    rhythm = next((name for name, korean in RHYTHMS.items() if re.search(rf"(?<!\w)({name}|{korean})(?!\w)", text)), "")
    key = next((key for word, key in KEYS.items() if re.search(rf"(?<!\w){word}(?!\w)", text)), "")
    metre = re.search(r"\d+/\d+", text)
    origin = next((name for name, korean in ORIGINS.items() if f"from {name}" in text or korean in text), "")
    return Headers("", rhythm, key, metre[0] if metre else "", origin)


KEYS = {
    word: f"{tonic}{sign}{mode}"
    for tonic in TONICS
    for sign in ("", "b", "#")
    for mode in MODES
    for word in (key_in_english(f"{tonic}{sign}{mode}"), key_in_korean(f"{tonic}{sign}{mode}"))
}
"""By its name in English or Korean, each key."""
