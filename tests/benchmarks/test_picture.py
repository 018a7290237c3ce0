import importlib
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyte
import pytest
from PIL import Image, ImageChops

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"
COLUMNS = 60


@pytest.fixture(scope="module")
def modules():
    """Return a function that imports the scripts, which are not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def screen(modules):
    return modules("screen")


@pytest.fixture(scope="module")
def picture(modules):
    return modules("picture")


@pytest.fixture(scope="module")
def typeface(screen):
    try:
        return screen.Typeface.load(None, None, 24)
    except screen.FontError as error:
        pytest.skip(str(error))


@pytest.fixture
def rows_of(screen):
    """Return a function that shows text on a terminal and returns its lines, without the cursor."""

    def show(text):
        terminal = screen.Screen()
        pyte.Stream(terminal).feed(f"{text}\n".replace("\n", "\r\n"))
        return terminal.rows()[:-1]

    return show


TEXT = "you> 왜 그래요? MW@|→… “훨씬” ██▌ 뷁뛟힣 _jg"


@pytest.mark.parametrize("style", ["", "\x1b[1m", "\x1b[2m", "\x1b[1;36m"])
def test_the_ink_of_each_character_is_in_its_own_cells(screen, typeface, rows_of, style):
    (row,) = rows_of(style + TEXT)
    complete = screen.draw([row], "", COLUMNS, typeface).convert("RGB")
    width, height = typeface.cell
    column = 0
    for character in TEXT:
        num_columns = 2 if unicodedata.east_asian_width(character) == "W" else 1
        cells = slice(column, column + num_columns)
        assert "".join(cell.data for cell in row[cells]) == character
        blank = [*row[:column], *screen.row_of(" " * num_columns), *row[column + num_columns :]]
        box = ImageChops.difference(complete, screen.draw([blank], "", COLUMNS, typeface).convert("RGB")).getbbox()
        if character == " ":
            assert box is None
        else:
            # The margin is two cells.
            assert (2 + column) * width <= box[0] < box[2] <= (2 + column + num_columns) * width, character
            assert box[3] - box[1] <= height
        column += num_columns


def test_a_font_without_two_columns_for_hangul_is_refused(screen):
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"
    with pytest.raises(screen.FontError, match="apt install fonts-"):
        screen.Typeface.load(font, None, 24)


def test_colours_and_weights(screen, typeface, rows_of):
    (row,) = rows_of("\x1b[2ma\x1b[0mb\x1b[38;5;2mc\x1b[38;2;2;2;2md\x1b[1;2me\x1b[22mf\x1b[0;7mg\x1b[0m")
    assert [cell.blink for cell in row] == [True, False, False, False, True, False, False]
    assert [cell.bold for cell in row] == [False, False, False, False, True, False, False]
    colours = [screen.colours_of(cell) for cell in row]
    plain = (screen.FOREGROUND, screen.BACKGROUND)
    assert colours[1] == plain and colours[6] == plain[::-1]
    assert colours[3][0] == colours[5][0] == "#020202"
    # Between the text's colour and the background's.
    dim, bright, dark = (np.array(list(bytes.fromhex(text[1:]))) for text in (colours[0][0], *plain))
    assert (dark < dim).all() and (dim < bright).all()
    ink = [np.asarray(typeface.tile("한", 2, bold=bold)).sum() for bold in (False, True)]
    assert ink[1] > 1.1 * ink[0]


@pytest.mark.parametrize("columns", range(14, 50))
def test_long_lines_break_at_spaces_and_never_within_a_character(screen, rows_of, columns):
    text = "    step 10: 가벼워지거든요 정말로, listening 0.3 그리고 0.7 by remembering"
    (row,) = rows_of(text)
    lines = screen.wrapped(row, columns)
    assert all(len(line) <= columns for line in lines)
    assert all(line[0].data == " " and line[-1].data != " " for line in lines)
    # The longest word is 14 columns wide, and further lines are indented by 8.
    if columns >= 8 + 14:
        assert " ".join(map(screen.text_of, lines)).split() == text.split()
    # As many cells as two for each syllable and one for any other character.
    for line in lines:
        content = screen.text_of(line)
        assert len(line) == sum(1 + (unicodedata.east_asian_width(character) == "W") for character in content)
    assert "".join("".join(map(screen.text_of, lines)).split()) == "".join(text.split())


RECORDING = """$ chatformer quickstart
step 1000: loss 3.0
    first → answer
\rtraining:  40%|████      |\r                          \rstep 2000: loss 2.0
    a question that is shorten… → answer
    second → answer
    third → answer
\rtraining:  80%|████████  |\r                          \rstep 3000: loss 1.0
    fourth → answer
training: 100%|██████████|

Done in 2.2 minutes. Written to chatformer-quickstart:
    model.safetensors  the model
warning: this is to be read
Talk to it with
    chatformer chat chatformer-quickstart

A few replies:
  you> hello
  bot> hi

Say something.

you> hello
bot> hi

you> """


def test_the_lines_that_are_shown(screen, picture, rows_of):
    rows = picture.chosen_rows(rows_of(RECORDING), evaluations=2, samples=1)
    assert [screen.text_of(row) for row in rows] == [
        "$ chatformer quickstart",
        "⋮",
        "step 2000: loss 2.0",
        "    second → answer",
        "step 3000: loss 1.0",
        "    fourth → answer",
        "training: 100%|██████████|",
        "",
        "Done in 2.2 minutes. Written to chatformer-quickstart:",
        "warning: this is to be read",
        "⋮",
        "Say something.",
        "",
        "you> hello",
        "bot> hi",
        "",
        "you>",
    ]


def test_a_real_conversation(screen, picture, trained, environment, typeface, tmp_path, monkeypatch, capsys):
    from chatformer.chat.chatbot import Chatbot, Conversation
    from chatformer.configuration.replies import ReplySettings

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    questions = ["따라 해 4 2", "again!", "고마워"]
    shown = []
    draw = picture.draw
    monkeypatch.setattr(picture, "draw", lambda rows, *rest: shown.extend(rows) or draw(rows, *rest))
    file = tmp_path / "docs" / "chat.png"
    flags = ["--model", str(trained), "--output-file", str(file), "--questions", *questions]
    assert picture.main(flags) == 0, capsys.readouterr().err
    conversation = Conversation(Chatbot.from_pretrained(str(trained), device="cpu"))
    expected = [f"$ chatformer chat {trained.name}", "Say something. /help shows the commands, /quit leaves."]
    for question in questions:
        expected += ["", f"you> {question}", f"bot> {conversation.say(question, ReplySettings())}"]
    assert [screen.text_of(row).rstrip() for row in shown] == [*expected, "", "you>"]
    with Image.open(file) as image:
        assert image.format == "PNG" and image.width > 1000
    assert file.stat().st_size < picture.LARGEST_FILE


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "no-such-folder"], "--model must be the folder of a trained model"),
        (["--columns", "40", "--questions", "가나다라마바사아자차카타파하거너더러"], "Shorten it, or raise --columns."),
        (["--columns", "39"], "--columns must be at least 40"),
        (["--evaluations", "0"], "--evaluations must be at least 1"),
        (["--questions", "a\nb"], "A question must be a line of text"),
    ],
)
def test_what_cannot_work_is_said(picture, capsys, flags, message):
    assert picture.main(flags) == 2
    assert message in capsys.readouterr().err


def test_a_command_that_fails_is_an_error(picture, typeface, environment, tmp_path, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "empty").mkdir()
    assert picture.main(["--model", str(tmp_path / "empty"), "--output-file", str(tmp_path / "chat.png")]) == 2
    error = capsys.readouterr().err
    assert "The command ended" in error and "empty" in error
    assert not (tmp_path / "chat.png").exists()
