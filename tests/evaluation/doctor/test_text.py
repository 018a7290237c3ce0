import unicodedata

import pytest

from chatformer.evaluation.doctor.data import check_conversations
from chatformer.evaluation.doctor.text import misread


@pytest.mark.parametrize(
    ("text", "title", "example"),
    [
        ("나는 \ufffd\ufffd 좋아", "Characters that were lost (U+FFFD)", "\ufffd"),
        ("안녕".encode().decode("latin-1"), "Text that was read in the wrong encoding", "for 안녕"),
        ("café".encode().decode("cp1252"), "Text that was read in the wrong encoding", "Ã© for é"),
        ("it’s".encode().decode("cp1252"), "Text that was read in the wrong encoding", "for ’"),
        ("안녕하세요".encode("cp949").decode("latin-1"), "Text that was read in the wrong encoding", "for 안녕하세요"),
        ("占쏙옙 뭐야", "Text that was read in the wrong encoding", "占쏙옙"),
        ("a\x07b", "Control characters", "\\x07"),
        ("a\ue123b", "Private-use characters", "\\ue123"),
        ("a\u200bb", "Invisible characters", "\\u200b"),
        ("Tom &amp; Jerry", "HTML", "&amp;"),
        ("one<br/>two", "HTML", "<br/>"),
        (unicodedata.normalize("NFD", "하"), "Decomposed letters (not NFC)", "conversation 1"),
        ("ＡＢＣ", "Full-width letters or half-width kana and jamo", "ＡＢＣ"),
    ],
)
def test_text_that_is_broken(conversations_of, healthy, text, title, example):
    pairs = healthy(20)
    (finding,) = (
        finding
        for finding in check_conversations(conversations_of([("what?", text), *pairs]))
        if finding.check in ("broken text", "unusual text") and finding.severity != "good"
    )
    assert finding.title == title
    assert finding.found.startswith("In 1 of 21 conversations")
    assert example in finding.examples[0] and finding.examples[0].isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "큰칼 콱 파판 츌",
        "大韓民國 만세",
        "CAFÉ! naïve “quoted”…",
        "日本語です、カタカナ",
        "你好世界",
        "Ünlü Şarkı",
        "¿Qué?",
    ],
)
def test_what_was_read_right_is_not_taken_for_misread(text):
    assert misread(text) is None
