"""What several folders of tests need: a small task, the flags of a tiny model, and one trained on it."""

import json
import os
import shutil
from importlib import resources

import pytest


@pytest.fixture(scope="session")
def conversations():
    """Return 100 conversations with 152 exchanges: digits to repeat, and then to repeat again, out of the history."""
    made = []
    for number in range(100):
        digits = f"{number // 10} {number % 10}"
        messages = [{"role": "user", "content": f"따라 해 {digits}"}, {"role": "assistant", "content": f"네, {digits}"}]
        if number % 2:
            messages += [{"role": "user", "content": "again!"}, {"role": "assistant", "content": f"{digits} ㅋㅋ"}]
        if number % 50 == 1:
            messages += [{"role": "user", "content": "고마워"}, {"role": "assistant", "content": "뭘요 😀"}]
        if number % 5 == 0:
            messages.insert(0, {"role": "system", "content": "짧게"})
        made.append({"messages": messages})
    return made


@pytest.fixture(scope="session")
def conversations_file(conversations, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.jsonl"
    path.write_text("".join(json.dumps(made, ensure_ascii=False) + "\n" for made in conversations), "utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(conversations):
    from chatformer.data.tokenizer import train_tokenizer

    texts = [message["content"] for made in conversations for message in made["messages"]]
    return train_tokenizer(texts, vocab_size=600)


@pytest.fixture(scope="session")
def flags(conversations_file):
    """Return a function that makes the command line of a tiny training; its arguments are flags, over these or new."""

    def make(output_dir, **changes):
        settings = {
            "data": conversations_file,
            "validation_fraction": 0.1,
            "size": "tiny",
            "d_model": 32,
            "num_heads": 2,
            "encoder_layers": 1,
            "decoder_layers": 1,
            # Small: in few steps it learns to reply with more than its last token.
            "embedding_initializer_range": 0.02,
            # Not what the plan makes of so little data, but the weights as they are, chosen by the loss.
            "ema_decay": 0,
            "bpe_dropout": 0,
            "other_topics_fraction": 0,
            "metric_for_best_model": "loss",
            "vocab_size": 600,
            "max_source_tokens": 40,
            "max_target_tokens": 16,
            "tokens_per_step": 300,
            "learning_rate": 5e-3,
            "warmup_steps": 10,
            # What a machine's hardware would choose must not decide a test.
            "mixed_precision": "no",
            "logging_steps": 1,
            "eval_steps": 10,
            "output_dir": output_dir,
            **changes,
        }
        return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]

    return make


@pytest.fixture(scope="session")
def environment():
    """Return the environment of a process that is to compute on one thread of the CPU, without a network."""
    return os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
    }


@pytest.fixture(scope="session")
def train():
    """Return a function that trains within this process, on one thread of the CPU, and returns the exit status."""
    import torch
    from accelerate.state import AcceleratorState

    from chatformer.training.train import main

    def run(arguments):
        # Within a process accelerate keeps the precision and the device of the first training.
        AcceleratorState._reset_state(reset_partial_state=True)
        # The order of a sum, and so its last bits, depends on the number of threads.
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ACCELERATE_USE_CPU", "true")
                return main([str(argument) for argument in arguments])
        finally:
            torch.set_num_threads(num_threads)

    return run


@pytest.fixture(scope="session")
def trained(train, flags, tmp_path_factory):
    """Return the folder of a model that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    assert train(flags(folder, max_steps=150, eval_steps=50)) == 0
    return folder


@pytest.fixture(scope="session")
def captions_file(tmp_path_factory):
    """Return a table of captions and PNGs: a square, or stripes, of 6 x 6 pixels in each of four colours."""
    from PIL import Image, ImageDraw

    folder = tmp_path_factory.mktemp("captions")
    lines = ["caption,picture"]
    for colour in ("red", "lime", "blue", "gold"):
        for shape in ("square", "stripes"):
            image = Image.new("RGBA", (6, 6))
            boxes = [(1, 1, 4, 4)] if shape == "square" else [(0, 0, 5, 1), (0, 4, 5, 5)]
            for box in boxes:
                ImageDraw.Draw(image).rectangle(box, fill=colour)
            image.save(folder / f"{colour}-{shape}.png")
            lines.append(f"{colour} {shape},{colour}-{shape}.png")
    (folder / "captions.csv").write_text("\n".join(lines), "utf-8")
    return folder / "captions.csv"


@pytest.fixture(scope="session")
def drawer(train, flags, captions_file, tmp_path_factory):
    """Return the folder of a model that draws those pictures by heart."""
    folder = tmp_path_factory.mktemp("drawer") / "model"
    options = {"data": captions_file, "validation_data": captions_file, "repetition_penalty": 1, "max_steps": 500}
    assert train(flags(folder, **options, max_target_tokens=40, tokens_per_step=120, eval_steps=500)) == 0
    return folder


@pytest.fixture(scope="session")
def reads_questions(trained, tmp_path_factory):
    """Return a copy of a trained model's folder whose chat template passes on the last question alone."""
    folder = tmp_path_factory.mktemp("questions") / "model"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoint-*", "training_*"))
    template = resources.files("chatformer.data").joinpath("question_template.jinja").read_text("utf-8")
    assert (folder / "chat_template.jinja").read_text("utf-8") != template
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder
