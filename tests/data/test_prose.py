"""Plain text files as prose: what is prose, its chapters, its passages, and that a held-out chapter is not learnt."""

import gzip
import itertools
import random

import pytest

from chatformer.data.chapters import REPEATED, chapters_of
from chatformer.data.conversations import load_conversations
from chatformer.data.passages import LONGEST, SHORTEST, columns, passages, sentences_of
from chatformer.data.prose import CHAPTER, is_prose
from chatformer.data.splitting import split_conversations

KOREAN = "나는 생각한다. 그러므로 나는 존재한다! 그런데 “정말 그럴까?” 하고 그가 물었다. 아무도 대답하지 않았다…\n"


def sentence(chance, words=("the", "old", "devil", "sat", "by", "a", "fire", "and", "wrote", "of", "sins", "love")):
    return " ".join(chance.choices(words, k=chance.randint(3, 12))).capitalize() + "."


@pytest.fixture(scope="module")
def book():
    """Return a book of 30 chapters, wrapped to 60 columns, and the words of each chapter that are in no other."""
    chance = random.Random(1)
    parts, own = [], []
    for number in range(1, 31):
        sentences = [f"Only{number}x{place} {sentence(chance)}" for place in range(60)]
        own.append({text.split()[0] for text in sentences})
        parts.append(f"\n\nChapter {number}. Of things\n\n")
        for start in range(0, len(sentences), 6):
            line = ""
            for word in " ".join(sentences[start : start + 6]).split():
                if len(line) + 1 + len(word) > 60:
                    parts.append(line + "\n")
                    line = word
                else:
                    line = f"{line} {word}".strip()
            parts.append(line + "\n\n")
    return "".join(parts), own


def texts_of(conversations):
    return [[message["content"] for message in messages] for messages in conversations["messages"]]


def test_a_text_without_tabs_is_prose_and_the_reading_is_said(written, tmp_path, book, caplog):
    file = written(tmp_path / "book.txt", book[0])
    packed = written(tmp_path / "book2.txt.gz", gzip.compress(book[0].encode()))
    conversations = load_conversations(file).conversations
    assert is_prose(conversations)
    assert f"{file}: read as prose, {len(conversations):,} passages of 30 chapters." in caplog.text
    assert "--data-format pairs" in caplog.text
    assert texts_of(load_conversations(packed).conversations) == texts_of(conversations)
    # A wrapped paragraph is one line again.
    assert not any("\n" in text.replace("\n\n", "") for pair in texts_of(conversations) for text in pair)


def test_what_is_prose(pairs, written, error_of, tmp_path, caplog):
    tabbed = written(tmp_path / "pairs.txt", "안녕\t반가워요\n뭐 해?\t쉬어요\n")
    one, two = (written(tmp_path / f"{name}.txt", KOREAN) for name in ("one", "two"))
    longer = written(tmp_path / "longer.txt", KOREAN + KOREAN)
    third = written(tmp_path / "third.txt", "하늘은 높고 말은 살찐다. 사람은 책을 읽는다.\n")
    # Indented by tabs, as some books are.
    indented = written(tmp_path / "indented.txt", f"\t{KOREAN}\t{KOREAN}")

    def kind(*files, **options):
        return is_prose(load_conversations(list(files), **options).conversations)

    assert not kind(tabbed)
    assert kind(one) and kind(indented) and kind(one, longer, third)
    # Two files of as many lines are questions and answers, unless the flag says what they are.
    caplog.clear()
    assert pairs([one, two]) == [(KOREAN.strip(), KOREAN.strip())]
    assert f"{one} and {two}: read as questions and answers, line by line." in caplog.text
    assert kind(one, longer, data_format="prose") and kind(tabbed, data_format="prose")
    assert "pass --data-format prose" in error_of([one, longer])
    assert "no tab" in error_of(one, data_format="pairs")
    table = written(tmp_path / "chats.csv", "Q,A\n안녕,네\n")
    assert "chats.csv is a table" in error_of(table, data_format="prose")
    assert "sha256 is of one file" in error_of([one, longer, third], sha256="0" * 64)


def test_no_passage_of_a_held_out_chapter_is_learnt(written, tmp_path, book):
    text, own = book
    # Copies of the book, one with something before it: a copy must not be learnt where its chapter is held out.
    texts = (text, text, f"{KOREAN * 30}\n\n{text}")
    files = [written(tmp_path / f"{number}.txt", text) for number, text in enumerate(texts)]
    conversations = load_conversations(files).conversations
    for seed in range(3):
        training, validation = split_conversations(conversations, validation_fraction=0.2, seed=seed)
        assert not set(training[CHAPTER]) & set(validation[CHAPTER])
        assert 0.1 * len(conversations) < len(validation) <= 0.2 * len(conversations)
        words = [
            {word for pair in texts_of(side) for text in pair for word in text.split()}
            for side in (training, validation)
        ]
        for chapter in own:
            assert not (chapter & words[0] and chapter & words[1])
    assert len(conversations) < 1.1 * len(load_conversations(files[0]).conversations)


def test_the_same_words_are_on_the_same_side_in_any_order(written, tmp_path, book):
    chapters = [f"Chapter {part}" for part in book[0].split("Chapter ")[1:]]
    sides = []
    for order in (chapters, chapters[::-1]):
        file = written(tmp_path / "book.txt", "\n\n".join(order))
        _, validation = split_conversations(load_conversations(file).conversations, validation_fraction=0.2, seed=1)
        sides.append(sorted(texts_of(validation)))
    assert sides[0] == sides[1]


def test_passages_cover_a_chapter_and_end_with_sentences(book):
    (chapter, *_), _ = chapters_of("book.txt", book[0], "utf-8")
    (run,) = chapter.runs
    ends = {end for _, end in sentences_of(run)}
    found = list(passages(run, random.Random(0)))
    lengths = [columns(run[cut:end]) for _, cut, end in found]
    prompts = [len(run[begin:cut].split()) for begin, cut, _ in found]
    assert all(end in ends for _, _, end in found)
    assert max(lengths) <= LONGEST and sum(length >= SHORTEST / 2 for length in lengths) > 0.8 * len(lengths)
    # From a word to a paragraph, one after the other.
    assert min(prompts) == 1 and max(prompts) > 20
    assert all(after[1] >= before[2] for before, after in itertools.pairwise(found))
    assert sum(lengths) > 0.8 * len(run)
    # Some prompts are the beginning of a sentence, others end with one.
    inside = sum(run[:cut].rstrip()[-1] != "." for _, cut, _ in found)
    assert 0.25 < inside / len(found) < 0.75


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. A. Bee met Dr. No, etc. and left. He did!", ["Mr. A. Bee met Dr. No, etc. and left.", "He did!"]),
        ("“정말?” 그가 물었다. 끝…", ["“정말?”", "그가 물었다.", "끝…"]),
        ("A title\n\nText without an end", ["A title", "Text without an end"]),
        ("word " * 100, [" ".join(["word"] * 60), " ".join(["word"] * 40)]),
    ],
)
def test_sentences(text, sentences):
    assert [text[begin:end] for begin, end in sentences_of(text)] == sentences


def test_verse_keeps_its_lines_and_prose_does_not():
    prose = "\n".join(["It was a dark and stormy night and the rain fell in torrents,"] * 3 + ["except at times."])
    verse = "    Roses are red,\n    Violets are blue."
    (chapter,), _ = chapters_of("a.txt", f"{prose}\n\n{verse}\n\n{prose}", "utf-8")
    (run,) = chapter.runs
    assert run.count("\n\n") == 2 and "Roses are red,\nViolets are blue." in run
    assert "torrents, It was" in run


def test_headings_and_sections():
    filler = "This is a sentence of the chapter that goes on for a while, number {}.\n\n"

    def chapter(heading, number):
        return f"{heading}\n\n" + "".join(filler.format(f"{number} {place}") for place in range(40))

    headings = ["제1장 총강", "CHAPTER II.", "III", "Act IV. A street", "PREFACE", "12", "# Seven", "에필로그"]
    book = "".join(chapter(heading, place) for place, heading in enumerate(headings * 2))
    found, _ = chapters_of("a.txt", book, "utf-8")
    assert len(found) == 16
    assert [each.runs[0].split("\n")[0] for each in found][: len(headings)] == headings
    # What only looks like one in the middle of a line, or is a long line, is none.
    assert len(chapters_of("a.txt", chapter("Part of it went on.", 1), "utf-8")[0]) < 3
    # Without headings there are sections, of which some can be held out.
    plain = "".join(filler.format(number) for number in range(2000))
    sections, _ = chapters_of("a.txt", plain, "utf-8")
    assert 30 <= len(sections) <= 50
    assert sum(map(len, sections)) > 0.95 * len(plain)


def test_repeated_lines_and_notices_around_a_book_are_left_out(written, tmp_path, caplog):
    notice = "This text may be copied, given away or used under the terms of the licence that comes with it."
    assert len(notice) > REPEATED
    book = (
        f"Header.\n*** START OF THIS BOOK ***\n{notice}\n\nOne ends. Two ends.\n\n{notice}\n*** END OF THIS BOOK ***\nX"
    )
    conversations = load_conversations(written(tmp_path / "a.txt", book)).conversations
    text = " ".join(text for pair in texts_of(conversations) for text in pair)
    assert text.count("licence") <= 1
    assert "Header" not in text and "X" not in text
    assert "without 1 repeated line" in caplog.text


def test_lines_that_cannot_be_read(written, error_of, tmp_path):
    content = KOREAN.encode() + b"A line with \xff in it.\n" + b"The end. It is over.\n"
    file = written(tmp_path / "a.txt", content)
    assert f"{file}, row 2: the byte 0xFF is not utf-8" in error_of(file, encoding="utf-8")
    loaded = load_conversations(file, encoding="utf-8", skip_bad_rows=True)
    assert [row.row for row in loaded.bad_rows] == [2]
    assert not any("with" in text for pair in texts_of(loaded.conversations) for text in pair)
