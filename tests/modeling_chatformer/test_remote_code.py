"""A saved folder loads where chatformer is not installed, from the code that it carries."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.dynamic_module_utils import get_imports

from chatformer import (
    BahdanauConfig,
    BahdanauForConditionalGeneration,
    ChatformerForConditionalGeneration,
    EnsembleConfig,
    EnsembleForConditionalGeneration,
    sized_config,
)
from chatformer.data.tokenizer import train_tokenizer

TEXTS = ["안녕하세요, 오늘 뭐 먹을까요?", "Good morning, what shall we eat?"] * 20

WITHOUT_CHATFORMER = """
import sys
sys.modules["chatformer"] = None  # any import of it fails
import json, torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

folder, again = sys.argv[1:]
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
headless = AutoModel.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer("안녕하세요", return_tensors="pt")
logits = model(**ids, labels=ids["input_ids"]).logits
chat = pipeline("seq2seq-chat", model=folder, trust_remote_code=True)
conversation = [{"role": "user", "content": "안녕하세요"}]
replies = {
    "one": chat(conversation, max_new_tokens=5)["generated_text"][-1],
    "text": chat("안녕하세요", max_new_tokens=5)["generated_text"],
    "many": [answer["generated_text"][-1]["content"] for answer in chat([conversation] * 2, max_new_tokens=5)],
}

model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = model(**ids, labels=ids["input_ids"]).loss
before.backward()
optimizer.step()
model.eval()
after = model(**ids, labels=ids["input_ids"]).loss.item()
model.save_pretrained(again)
tokenizer.save_pretrained(again)
print(); print("RESULT", json.dumps({
    "logits": logits.flatten()[:50].tolist(), "replies": replies, "after": after,
    "model": type(model).__module__, "headless": type(headless).__name__, "config": type(config).__name__,
}))
"""


MODEL_CLASSES = {
    "chatformer": ChatformerForConditionalGeneration,
    "bahdanau": BahdanauForConditionalGeneration,
    "ensemble": EnsembleForConditionalGeneration,
}


@pytest.fixture(scope="module", params=MODEL_CLASSES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def folder(architecture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 600)
    config = sized_config("tiny", d_model=32, num_heads=4, vocab_size=len(tokenizer), dropout=0.0, decoder_layers=3)
    if architecture == "bahdanau":
        config = BahdanauConfig(d_model=32, vocab_size=len(tokenizer), dropout=0.0)
    if architecture == "ensemble":
        config = EnsembleConfig(
            num_members=2, d_model=32, num_heads=4, encoder_layers=2, vocab_size=len(tokenizer), dropout=0.0
        )
    MODEL_CLASSES[architecture](config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def elsewhere(folder, tmp_path_factory):
    """What a process without chatformer makes of the folder, and the folder that it saves."""
    again = tmp_path_factory.mktemp("again") / "model"
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_CHATFORMER, str(folder), str(again)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1"},
    )
    assert process.returncode == 0, process.stderr
    result = next(line for line in process.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(result.removeprefix("RESULT ")), again


def test_gives_the_same_logits_and_replies(folder, elsewhere, architecture):
    result, _ = elsewhere
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert isinstance(model, MODEL_CLASSES[architecture])
    assert result["model"].startswith("transformers_modules.")
    assert (result["headless"], result["config"]) == (
        f"{architecture.capitalize()}Model",
        f"{architecture.capitalize()}Config",
    )
    tokenizer = train_tokenizer(TEXTS, 600)
    ids = tokenizer("안녕하세요", return_tensors="pt")
    logits = model(**ids, labels=ids["input_ids"]).logits
    torch.testing.assert_close(torch.tensor(result["logits"]), logits.flatten()[:50], rtol=0, atol=1e-6)
    reply = tokenizer.decode(model.generate(**ids, max_new_tokens=5)[0], skip_special_tokens=True)
    assert result["replies"] == {
        "one": {"role": "assistant", "content": reply},
        "text": reply,
        "many": [reply, reply],
    }


def test_what_is_trained_and_saved_elsewhere_loads_here(elsewhere, architecture):
    result, again = elsewhere
    model = AutoModelForSeq2SeqLM.from_pretrained(again)
    assert isinstance(model, MODEL_CLASSES[architecture])
    ids = train_tokenizer(TEXTS, 600)("안녕하세요", return_tensors="pt")
    assert model(**ids, labels=ids["input_ids"]).loss.item() == pytest.approx(result["after"], abs=1e-6)


def test_the_code_that_travels_is_the_package_s_own(folder, elsewhere, architecture):
    root = Path(__file__).parents[2]
    carried = {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}
    needed = {f"modeling_{architecture}.py", f"configuration_{architecture}.py", "pipeline_chatformer.py"}
    assert needed <= set(carried)
    for name, text in carried.items():
        home = "configuration" if name.startswith("configuration_") else "modeling_chatformer"
        assert text == (root / home / name).read_text("utf-8"), name
    _, again = elsewhere
    assert {path.name: path.read_text("utf-8") for path in again.glob("*.py")} == carried


def test_the_code_that_travels_imports_little_and_touches_nothing(folder):
    allowed = {"torch", "transformers", "math", "difflib", "typing", "collections", "weakref", "re", "unicodedata"}
    allowed |= {"numpy", "io", "itertools", "functools", "dataclasses"}
    for path in folder.glob("*.py"):
        # What transformers demands before it loads the code: pictures alone need Pillow.
        assert {*get_imports(path)} <= allowed, path.name
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, path.name
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] in allowed | {"PIL"}, path.name
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "exec", "eval", "compile", "__import__"}, path.name
