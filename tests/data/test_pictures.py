"""Data with pictures: tables that name files, and what is made of installed packages."""

import itertools
import json
import re
from random import Random

import numpy as np
import pytest
from PIL import Image

from chatformer.configuration.data import DataSettings
from chatformer.configuration.training import TrainingSettings
from chatformer.data import digits, emojis, pictures, wishes
from chatformer.data.conversations import load_conversations
from chatformer.data.messages import DataError
from chatformer.data.named import held_out_of
from chatformer.data.preparation import conversations_of
from chatformer.data.wishes import DRAW, DRAW_KO
from chatformer.hub.samples import media_files, with_media_files
from chatformer.pictures import PICTURE, pixels_of_text, text_of_pixels


def pictures_of(file, **options):
    loaded = load_conversations(str(file), **options)
    return [(made[0]["content"], pixels_of_text(made[1]["content"])) for made in loaded.conversations["messages"]]


def test_a_table_names_files_in_its_own_folder(captions_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = dict(pictures_of(captions_file))
    assert len(made) == 8
    pixels = made["red square"]
    # What is transparent is white, and five bits a colour are nearly all of it.
    assert pixels.shape == (6, 6, 3) and (pixels[0] == 255).all()
    assert np.abs(pixels[1, 1].astype(int) - (255, 0, 0)).max() <= 255 / 31


def test_the_other_way_round_a_picture_is_the_question(captions_file):
    loaded = load_conversations(str(captions_file), question_column="picture", answer_column="caption")
    question, answer = loaded.conversations["messages"][0]
    assert PICTURE.fullmatch(question["content"]) and answer["content"] == "red square"


def test_large_photographs_become_small_ones_of_few_colours(tmp_path):
    ramp = np.linspace(0, 255, 100 * 64 * 3).reshape(100, 64, 3).astype(np.uint8)
    for number in range(3):
        Image.fromarray(np.roll(ramp, number, axis=2)).save(tmp_path / f"{number}.png")
    lines = ["설명\t그림", *(f"{number}\t{number}.png" for number in range(3))]
    (tmp_path / "captions.tsv").write_text("\n".join(lines), "utf-8")
    made = pictures_of(tmp_path / "captions.tsv")
    assert all(pixels.shape == (32, 20, 3) for _, pixels in made)
    colours = {tuple(colour) for _, pixels in made for colour in pixels.reshape(-1, 3).tolist()}
    assert 8 < len(colours) <= pictures.NUM_COLOURS


def test_files_that_are_no_pictures_are_bad_rows_that_say_why(captions_file, tmp_path):
    (tmp_path / "text.png").write_text("no picture", "utf-8")
    Image.open(captions_file.parent / "red-square.png").save(tmp_path / "red.png")
    (tmp_path / "captions.csv").write_text("caption,picture\na,red.png\nb,text.png\nc,none.png\nd,\n", "utf-8")
    with pytest.raises(DataError) as raised:
        load_conversations(str(tmp_path / "captions.csv"))
    said = str(raised.value)
    assert f"none.png is no file in {tmp_path}" in said and "text.png is no picture" in said and "is missing" in said
    loaded = load_conversations(str(tmp_path / "captions.csv"), skip_bad_rows=True)
    assert len(loaded.conversations) == 1 and [row.row for row in loaded.bad_rows.rows] == [3, 4, 5]


def test_pictures_that_are_letters_already_stay(tmp_path):
    letters = text_of_pixels(np.zeros((2, 2, 3), dtype=np.uint8))
    (tmp_path / "letters.jsonl").write_text(json.dumps({"caption": "black", "picture": letters}), "utf-8")
    ((_, pixels),) = pictures_of(tmp_path / "letters.jsonl")
    assert not pixels.any()


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(pictures, "find_spec", lambda package: None)
    with pytest.raises(DataError, match=r"sklearn: pip install 'chatformer\[pictures\]'"):
        next(digits.rows(held_out=False))


def test_digits_are_asked_for_in_two_languages_and_a_tenth_is_held_out():
    training, validation = conversations_of(TrainingSettings(data=DataSettings(data=("digits",))))
    assert (len(training.conversations), len(validation.conversations)) == (2 * 1618, 2 * 179)
    question, answer = validation.conversations["messages"][1]
    assert question["content"] == "nine" == digits.NAMES[digits.digits(held_out=True)[0].value][1]
    ink = digits.ink_of(pixels_of_text(answer["content"]))
    assert np.abs(ink - digits.digits(held_out=True)[0].ink_HW).max() == digits.STEP / 2


def test_names_are_mixed_each_with_what_is_held_out_of_it():
    alone, of_alone = conversations_of(TrainingSettings(data=DataSettings(data=("starter",))))
    mixed, of_mixed = conversations_of(TrainingSettings(data=DataSettings(data=("starter", "digits"))))
    assert len(mixed.conversations) == len(alone.conversations) + 2 * 1618
    assert len(of_mixed.conversations) == len(of_alone.conversations) + 2 * 179
    assert PICTURE.fullmatch(of_mixed.conversations["messages"][-1][1]["content"])
    few = DataSettings(data=("starter", "digits"), max_train_samples=10)
    assert len(conversations_of(TrainingSettings(data=few))[0].conversations) == 10


def test_emoji_are_asked_for_by_their_names_or_in_sentences(monkeypatch):
    chosen = emojis.emojis(frozenset({"💚", "🔵", "🍎", "👩🏽\u200d🚒", "👍🏽"}))
    monkeypatch.setattr(emojis, "emojis", lambda: chosen)
    forms = (re.escape(words).replace(r"\{을\}", "[을를]?") for words in (*DRAW, *DRAW_KO))
    pattern = "|".join(form.replace(r"\{\}", "(an? )?[^.?]*") for form in forms)
    for held_out in (False, True):
        named, asked = (list(emojis.rows(held_out=held_out, wished=wished)) for wished in (False, True))
        left = iter(asked)
        for name in named:
            # A thing by several sentences, which are different; what is held out by one, and what differs by its tone.
            is_thing = not held_out and not re.search("skin tone|피부", name["caption"])
            wishes_for_it = list(itertools.islice(left, 3 if is_thing else 1))
            assert len({wish["caption"] for wish in wishes_for_it}) == (3 if is_thing else 1)
            for wish in wishes_for_it:
                assert wish["picture"] == name["picture"]
                assert name["caption"] in wish["caption"] != name["caption"]
                assert re.fullmatch(pattern, wish["caption"])
        assert named and not list(left)
        # The same each time, since a run that is resumed reads its data again.
        assert list(emojis.rows(held_out=held_out, wished=True)) == asked
    assert held_out_of("emoji-wishes") == "emoji-wishes-held-out"


def test_emoji_are_drawn_in_their_colours_and_flags_are_not():
    drawn = emojis.emojis(frozenset({"💚", "🔵", "👩🏻\u200d🚒", "👩🏽\u200d🚒", "🇰🇷"}))
    by_name = {emoji.english[0]: emoji for emoji in drawn}
    assert set(by_name) == {"green heart", "blue circle"} | {
        f"woman firefighter {tone} skin tone" for tone in ("light", "medium")
    }
    assert by_name["blue circle"].korean[0] == "파란 원"
    middles = {name: pixels_of_text(emoji.picture)[12, 12].tolist() for name, emoji in by_name.items()}
    red, green, blue = middles["green heart"]
    assert green > red > blue
    red, green, blue = middles["blue circle"]
    assert blue > green > red


@pytest.mark.parametrize(
    ("name", "particle"), [("사과", "를"), ("집", "을"), ("케이크", "를"), ("책", "을"), ("atm", ""), ("키 캡 10", "")]
)
def test_a_korean_wish_has_the_particle_of_its_name(name, particle):
    assert wishes.object_particle(name) == particle
    asked = {wishes.for_picture_in_korean(name, Random(number)) for number in range(200)}
    assert f"{name}{particle} 그려 주세요" in asked and len(asked) == (11 if particle else 8)


def test_things_have_their_short_names_too():
    found = {emoji.text: emoji for emoji in emojis.emojis(frozenset({"🍎", "🍏", "🐶", "🐕", "💚", "👍🏽"}))}
    assert found["🍎"].korean == ("빨간 사과", "사과") and found["🍎"].english == ("red apple", "apple")
    # Each name is one picture's; and what is held out, or combined with a skin tone, has no other.
    assert found["🍏"].korean == ("초록 사과",) and found["🍏"].english == ("green apple",)
    assert found["🐶"].korean == ("강아지 얼굴", "강아지") and found["🐶"].english == ("dog face",)
    assert found["💚"].english == ("green heart",)
    assert [len(names) for names in (found["👍🏽"].korean, found["👍🏽"].english)] == [1, 1]


def test_of_each_professional_one_skin_tone_is_held_out():
    for person in emojis.PEOPLE:
        held_out = [tone for tone in emojis.SKIN_TONES if emojis.is_held_out(f"{person}{tone}\u200d🚒")]
        assert len(held_out) == 1
    assert emojis.is_held_out("💚") and not emojis.is_held_out("💙") and not emojis.is_held_out("👩🏽")


def test_a_card_shows_files_in_place_of_letters():
    picture = text_of_pixels(np.zeros((2, 3, 3), dtype=np.uint8))
    samples = [("black", picture), ("twice", f"{picture} and {picture}"), ("hello", "hi")]
    assert list(media_files(samples)) == ["reply_1.png", "reply_2.png", "reply_3.png"]
    first, second, third = with_media_files(samples)
    assert first == ("black", "![a picture of 3 x 2](reply_1.png)") and third == samples[2]
    assert second[1] == "![a picture of 3 x 2](reply_2.png) and ![a picture of 3 x 2](reply_3.png)"
