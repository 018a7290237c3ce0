"""`chatformer plot`: a picture for each kind, and a sentence for each mistake."""

import io

import pytest
from PIL import Image

from chatformer.cli.main import main


@pytest.mark.parametrize(
    "picture", ["attention", "tokens", "steps", "beams", "mask", "positions", "schedule", "curves"]
)
def test_every_picture_is_written(picture, trained, tmp_path):
    file = tmp_path / f"{picture}.png"
    # Another picture must not depend on the text.
    text = ["--text", "따라 해 2 4"] if picture in ("attention", "tokens", "steps", "beams", "mask") else []
    assert main(["plot", picture, str(trained), *text, "--output-file", str(file)]) == 0
    image = Image.open(io.BytesIO(file.read_bytes()))
    assert image.format == "PNG" and len(set(image.convert("L").tobytes())) > 10


@pytest.mark.parametrize("picture", ["positions", "schedule"])
def test_what_the_paper_describes_needs_no_model(picture, tmp_path):
    assert main(["plot", picture, "--output-file", str(tmp_path / "a.svg")]) == 0
    assert "<svg" in (tmp_path / "a.svg").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention"], "`chatformer plot attention DIR` needs the folder of a model"),
        (["attention", "MODEL", "--layer", "2"], "--layer must be at most 1, as many as the model has, but it is 2."),
        (["attention", "MODEL", "--num-beams", "2"], "The picture attention does not depend on --num-beams."),
        (["curves", "MODEL", "--output-file", "a.txt"], "must end with its format, such as .png"),
        (["curves", "EMPTY"], "has no training_log.jsonl with the steps of a training"),
        (["attention", "MODEL", "--output-file", "missing/a.png"], "There is no folder missing for --output-file"),
        (["schedule", "EMPTY"], "has no training_settings.yaml and training_record.json of a training"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, message, trained, tmp_path, capsys):
    places = {"MODEL": str(trained), "EMPTY": str(tmp_path)}
    arguments = [places.get(argument, argument) for argument in arguments]
    if "--output-file" not in arguments:
        arguments += ["--output-file", str(tmp_path / "a.png")]
    assert main(["plot", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
