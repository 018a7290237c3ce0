"""Folders that lie, are broken or mean harm: each loads right, or fails with an error that names the file."""

import contextlib
import json
import os
import pickle
import pty
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.chat.chatbot import Chatbot
from chatformer.chat.errors import ModelNotFound
from chatformer.configuration.replies import ReplySettings
from chatformer.data.tokenizer import train_tokenizer
from chatformer.hub.bundle import gather
from chatformer.hub.errors import HubError
from chatformer.storage.explaining import StorageError
from chatformer.storage.model_folder import ModelFolder

SHORT = ReplySettings(max_new_tokens=3)
MOST_SECONDS = 60
MOST_BYTES = 2**29

DEEP = "[" * 100_000 + "]" * 100_000
NESTED = json.loads("[" * 500 + "]" * 500)
VALUES = [
    10**30,
    2**31,
    10**9,
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    "x",
    "",
    None,
    True,
    [],
    [3],
    {},
    {"a": 1},
    NESTED,
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return the folder of a small model that can converse."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sound") / "model"
    tokenizer = train_tokenizer(["안녕하세요", "hello there", "hello again"], vocab_size=600)
    tokenizer.model_max_length = 40
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_ff": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    model = ChatformerForConditionalGeneration(ChatformerConfig(vocab_size=len(tokenizer), **sizes))
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def altered(text, chance):
    """Return bytes of which some were cut off, turned over, doubled, or put in."""
    kind, place = chance.randrange(5), chance.randrange(len(text))
    if kind == 0:
        return text[:place]
    if kind == 1:
        return text[:place] + bytes([text[place] ^ 1 << chance.randrange(8)]) + text[place + 1 :]
    if kind == 2:
        return text[:place] + text[place // 2 :]
    if kind == 3:
        return text[:place] + chance.randbytes(8) + text[place:]
    return text[:place] + text[place + 1 + chance.randrange(20) :]


def places(value, path=()):
    """Yield the way to each part of a JSON structure."""
    if path:
        yield path
    if isinstance(value, dict) and len(value) <= 50:
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:3]):
            yield from places(inner, (*path, index))


def replaced(structure, path, value):
    """Return a JSON structure as text, with another value in one place."""
    copied = json.loads(json.dumps(structure))
    parent = copied
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return json.dumps(copied).encode()


def broken_texts(text, seed, count):
    """Yield texts broken by chance, and a few that are broken on purpose."""
    chance = random.Random(seed)
    for _ in range(count):
        yield altered(text, chance)
    yield from (b"", b"{}", b"[]", b"null", b"{", b"\xff\xfe", DEEP.encode(), b'{"a":' + DEEP.encode() + b"}")
    yield b'{"vocab_size": 3, "vocab_size": 4, ' + text.lstrip()[1:]


def lying_headers(weights, seed, count):
    """Yield files of safetensors whose headers say something else than what is there."""
    length = struct.unpack("<Q", weights[:8])[0]
    header, data = json.loads(weights[8 : 8 + length]), weights[8 + length :]

    def with_header(text, said=None):
        return struct.pack("<Q", len(text) if said is None else said) + text + data

    whole = json.dumps(header).encode()
    for said in (0, 1, len(whole) - 1, len(whole) + 1, len(weights), 2**31, 2**63, 2**64 - 1):
        yield with_header(whole, said)
    yield from (with_header(text) for text in (b"", b"{}", b"[]", DEEP.encode(), b"\x80\x04" + whole))
    chance = random.Random(seed)
    names = [name for name in header if name != "__metadata__"]
    for _ in range(count):
        name = chance.choice(names)
        entry = dict(header[name])
        kind = chance.randrange(6)
        if kind == 0:
            entry["shape"] = chance.choice([[], [0], [10**18], [2**63, 2**63], [-1, 3], entry["shape"][::-1], ["x"], 7])
        elif kind == 1:
            entry["dtype"] = chance.choice(["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "x", 3, None])
        elif kind == 2:
            entry["data_offsets"] = chance.choice([[0, 0], [10**18, 10**19], [8, 4], [-8, 4], [0], None, "x"])
        elif kind == 3:
            entry = chance.choice([None, 7, [], {}])
        elif kind == 4:
            # The same bytes, told to be of another kind or shape.
            total = (entry["data_offsets"][1] - entry["data_offsets"][0]) // 4
            entry |= chance.choice([{"shape": [total]}, {"shape": [1, total]}, {"dtype": "I32"}, {"dtype": "U32"}])
        else:
            other = {**{each: header[each] for each in names if each != name}, f"{name}.other": entry}
            yield with_header(json.dumps(other).encode())
            continue
        yield with_header(json.dumps({**header, name: entry}).encode())


HOSTILE_TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__['os'].system('touch pwned') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
    "{{ self._TemplateReference__context }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'x' * 10**18 }}",
    "{{ raise_exception('no') }}",
    "{{ messages[7]['content'] }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% if %}",
    "{{ 1 / 0 }}",
    "{{ messages }}" * 3,
    "",
]

HOSTILE_SETTINGS = {
    "auto_map": [{"AutoConfig": "evil.Evil", "AutoModelForSeq2SeqLM": "evil.Evil"}, {"AutoConfig": "a/b--evil.Evil"}],
    "model_type": ["bart", "marian", "bert", "unknown", "llama"],
    "attn_implementation": ["user/kernel", "flash_attention_3", "paged|eager"],
    "_attn_implementation": ["user/kernel"],
    "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}, {"quant_method": "x"}],
    "transformers_weights": ["../../pytorch_model.bin", "evil.bin"],
    "architectures": [["BartModel"], ["ChatformerModel"]],
    "dtype": ["int8", "evil", "float16", "float8_e4m3fn"],
    "configuration_files": [["config.99.0.0.json"]],
    "rope_scaling": [{"type": "x"}],
}
HOSTILE_TOKENIZER_SETTINGS = {
    "tokenizer_class": ["Evil", "MarianTokenizer", "BertTokenizer", "AutoTokenizer", "os.system", "CLIPTokenizerFast"],
    "auto_map": [{"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, ["evil.Evil", None], {"AutoTokenizer": "a/b--e.E"}],
    "chat_template": HOSTILE_TEMPLATES,
    "fast_tokenizer_files": [["tokenizer.99.json"]],
    "added_tokens_decoder": [
        {"9999999999": {"content": "x"}},
        {"0": {"content": "x"}},
        {"x": {}},
        {"900": {"content": "y"}},
    ],
    "model_specific_special_tokens": [{"x_token": "y" * 1000}],
}


class Harm:
    """What a pickle would do when it is loaded."""

    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def weights_mutations(folder):
    weights = (folder / "model.safetensors").read_bytes()
    chance = random.Random(1)
    yield from (altered(weights, chance) for _ in range(60))
    for _ in range(40):
        place = chance.randrange(weights.index(b"}}") + 2)
        yield weights[:place] + bytes([weights[place] ^ 1 << chance.randrange(8)]) + weights[place + 1 :]
    yield from (weights[:-1], weights + b"\0", weights * 2, b"", pickle.dumps(Harm()), None)
    yield from lying_headers(weights, seed=2, count=100)


def settings_mutations(file, hostile, seed, values):
    def mutations(folder):
        text = (folder / file).read_bytes()
        yield from broken_texts(text, seed, 30)
        settings = json.loads(text)
        for name in settings:
            yield from (replaced(settings, (name,), value) for value in values)
        for name, hostile_values in hostile.items():
            yield from (replaced({**settings, name: None}, (name,), value) for value in hostile_values)
        if file != "tokenizer_config.json":
            yield None

    return mutations


def tokenizer_mutations(folder):
    text = (folder / "tokenizer.json").read_bytes()
    yield from broken_texts(text, 5, 60)
    structure = json.loads(text)
    chance = random.Random(6)
    paths = list(places(structure))
    yield from (replaced(structure, chance.choice(paths), chance.choice(VALUES)) for _ in range(120))
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    yield replaced(structure, ("padding",), padding | {"pad_type_id": 0, "pad_token": "<|pad|>"})
    yield replaced(structure, ("truncation",), {"max_length": 0, "strategy": "x", "stride": 10**18})
    yield None


def template_mutations(folder):
    yield from (template.encode() for template in HOSTILE_TEMPLATES)
    yield from broken_texts((folder / "chat_template.jinja").read_bytes(), 7, 30)


GENERATION = {
    "max_new_tokens": [10**12, 2**20],
    "max_length": [10**12],
    "num_beams": [10**6, 3],
    "num_return_sequences": [10**6, 3],
    "cache_implementation": ["static", "evil"],
    "custom_generate": ["user/code"],
    "stop_strings": [["x"], "x"],
    "suppress_tokens": [[1], [10**9], "x"],
    "forced_bos_token_id": [10**9],
    "prompt_lookup_num_tokens": [10**9, 3],
    "assistant_early_exit": [1],
    "guidance_scale": [3.0],
    "watermarking_config": [{"bias": 2.0}, {}],
    "penalty_alpha": [0.5],
    "do_sample": [True],
    "compile_config": [{"backend": "evil"}],
}

MUTATIONS = {
    "model.safetensors": weights_mutations,
    "config.json": settings_mutations("config.json", HOSTILE_SETTINGS, 3, VALUES),
    "tokenizer.json": tokenizer_mutations,
    "tokenizer_config.json": settings_mutations("tokenizer_config.json", HOSTILE_TOKENIZER_SETTINGS, 4, VALUES[::3]),
    "chat_template.jinja": template_mutations,
    "generation_config.json": settings_mutations("generation_config.json", GENERATION, 8, VALUES[::2]),
}


def shapes_of(model):
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def linked(sound, folder, *without):
    """Return a new folder with the files of another one, but for those named."""
    folder.mkdir()
    for path in sound.iterdir():
        if path.name not in without:
            os.link(path, folder / path.name)
    return folder


def check(folder, sound_shapes):
    """Return why a folder cannot be loaded, or None where it loads right."""
    try:
        chatbot = Chatbot.from_pretrained(str(folder), device="cpu")
    except ModelNotFound as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and len(message) < 2000, message
        return message
    assert shapes_of(chatbot.engine.model) == sound_shapes
    assert isinstance(chatbot.reply([{"role": "user", "content": "hello"}], SHORT), str)
    return None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", MUTATIONS)
def test_what_is_broken_by_chance_or_purpose_loads_right_or_names_the_file(sound, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    sound_shapes = shapes_of(ModelFolder.find(str(sound)).model(torch.float32))
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = refused = 0
    problems = []
    for number, content in enumerate(MUTATIONS[file](sound)):
        folder = linked(sound, tmp_path / str(number), file)
        if content is not None:
            (folder / file).write_bytes(content)
        try:
            message = check(folder, sound_shapes)
        # Anything else is what is looked for.
        except BaseException as error:
            problems.append((number, (content or b"")[:300], repr(error)[:300]))
            continue
        if message is None:
            loaded += 1
        else:
            refused += 1
            if file not in message:
                problems.append((number, (content or b"")[:300], message))
    assert not problems, "\n".join(map(str, problems))
    assert loaded + refused >= 40 and refused
    assert not (tmp_path / "pwned").exists()
    assert time.process_time() - began < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


@pytest.mark.parametrize("file", MUTATIONS)
def test_what_cannot_be_shared_is_told_as_well(sound, tmp_path, file):
    refused = 0
    for number, content in enumerate(list(MUTATIONS[file](sound))[::12]):
        folder = linked(sound, tmp_path / str(number), file)
        if content is not None:
            (folder / file).write_bytes(content)
        try:
            gather(str(folder))
            found = ModelFolder.find(str(folder))
            found.tokenizer(vocab_size=found.model(torch.float32).config.vocab_size)
        except (HubError, StorageError) as error:
            refused += 1
            assert len(str(error).splitlines()) == 1 and file in str(error)
    assert refused


def test_there_are_enough_of_them(sound):
    assert sum(len(list(mutations(sound))) for mutations in MUTATIONS.values()) >= 1000


def test_pickles_are_not_read(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = linked(sound, tmp_path / "model", "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ModelNotFound, match=r"no model\.safetensors\. Pickles, such as pytorch_model\.bin"):
        Chatbot.from_pretrained(str(folder))
    for part in ("pytorch_model.bin", "../sound0/model.safetensors", "/etc/passwd", "model-1-of-1.safetensors/../x", 3):
        index = {"weight_map": {"model.shared.weight": part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelNotFound, match=r"model\.safetensors\.index\.json of .* must"):
            Chatbot.from_pretrained(str(folder))
    assert not (tmp_path / "pwned").exists()


def test_parts_of_weights_are_compared_too(sound, tmp_path):
    folder = linked(sound, tmp_path / "model", "model.safetensors")
    model = ModelFolder.find(str(sound)).model(torch.float32)
    model.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    for path in (tmp_path / "parts").glob("model[.-]*"):
        os.link(path, folder / path.name)
    parts = sorted(folder.glob("*.safetensors"))
    assert len(parts) > 2
    loaded = Chatbot.from_pretrained(str(folder), device="cpu").engine.model
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), model.parameters(), strict=True))
    parts[-1].unlink()
    with pytest.raises(ModelNotFound, match=f"are incomplete: {parts[-1].name} is missing"):
        Chatbot.from_pretrained(str(folder))
    os.link(parts[0], parts[-1])
    with pytest.raises(ModelNotFound, match=r"are incomplete: .* missing, which its config\.json promises"):
        Chatbot.from_pretrained(str(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_what_is_too_large_or_no_file_is_not_opened(sound, tmp_path, file):
    folder = linked(sound, tmp_path / "model", file)
    with (folder / file).open("wb") as opened:
        # It takes no place on the disk.
        opened.truncate(2**40)
    with pytest.raises(ModelNotFound, match=f"{file} of .* must have at most"):
        Chatbot.from_pretrained(str(folder))
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(ModelNotFound, match=f"{file} of .* must be a file"):
        Chatbot.from_pretrained(str(folder))


@pytest.fixture
def harmful(sound, tmp_path):
    """Return a folder that would have its own code run, wherever code may come from."""
    folder = linked(sound, tmp_path / "harmful", "config.json", "tokenizer_config.json")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w').close()\n")
    autos = ("AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM")
    config = json.loads((sound / "config.json").read_text()) | {"auto_map": dict.fromkeys(autos, "evil.Evil")}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((sound / "tokenizer_config.json").read_text())
    code = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | code))
    for path in folder.glob("*_chatformer.py"):
        path.unlink()
        path.write_text((folder / "evil.py").read_text())
    return folder


@pytest.mark.parametrize(
    ("verb", "has_terminal"), [("chat", False), ("chat", True), ("export", True), ("evaluate", True), ("push", False)]
)
def test_foreign_code_is_neither_run_nor_asked_about(harmful, tmp_path, environment, verb, has_terminal):
    rest = {"chat": [], "export": ["--to", "marian", "--output-dir", tmp_path / "out"]}
    rest |= {"evaluate": ["--data", "starter"], "push": ["--hub-model-id", "bot", "--dry-run"]}
    command = [sys.executable, "-m", "chatformer.cli.main", verb, harmful, *rest[verb]]
    screen, keyboard = pty.openpty()
    stdin = keyboard if has_terminal else None
    process = subprocess.run(
        list(map(str, command)),
        stdin=stdin,
        # As a script starts it in the background; and not even open, where there is no terminal.
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if has_terminal else lambda: os.close(0),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    os.close(screen)
    os.close(keyboard)
    assert process.returncode == 2
    # What is pushed would bring its code along.
    named = "evil.py" if verb == "push" else "tokenizer_config.json"
    assert process.stderr.splitlines()[-1].startswith("error: ") and named in process.stderr
    assert "Do you wish" not in process.stdout + process.stderr and "Traceback" not in process.stderr
    assert not (tmp_path / "pwned").exists()


def test_foreign_code_beside_a_sound_model_is_left_alone(harmful, sound, tmp_path):
    shutil.copyfile(sound / "tokenizer_config.json", harmful / "tokenizer_config.json")
    bot = Chatbot.from_pretrained(str(harmful), device="cpu")
    assert type(bot.engine.model) is ChatformerForConditionalGeneration
    asked = [{"role": "user", "content": "hello"}]
    assert bot.reply(asked, SHORT) == Chatbot.from_pretrained(str(sound), device="cpu").reply(asked, SHORT)
    assert not (tmp_path / "pwned").exists()


def test_from_the_hub_comes_data_alone_and_the_commit_is_shown(hub, hub_server, client_environment, sound, tmp_path):
    repo = hub.repos["models", "alice/bot"] = hub_server.Repo("models", "alice/bot")
    tree = {path.name: hub.stored(path.read_bytes()) for path in sound.iterdir()}
    tree |= {name: hub.stored(b"evil") for name in ("pytorch_model.bin", "adapter_config.json", "evil.py")}
    commit = repo.commit("refs/heads/main", tree, "Bot", "alice", None)
    environment = client_environment(hub) | {"TERM": "dumb", "COLUMNS": "200"}
    screen, keyboard = pty.openpty()
    command = [sys.executable, "-m", "chatformer.cli.main", "chat", "alice/bot", "--device", "cpu"]
    process = subprocess.Popen(command, stdin=keyboard, stdout=keyboard, stderr=keyboard, env=environment, cwd=tmp_path)
    os.close(keyboard)
    os.write(screen, b"/quit\n")
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(screen, 4096):
            shown += piece
    assert process.wait(timeout=300) == 0, shown
    os.close(screen)
    assert f"alice/bot, commit {commit[:7]}\r\n" in shown.decode()
    fetched = {path.name for path in Path(environment["HF_HOME"]).rglob("*") if path.is_symlink()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not [name for name in fetched if name.endswith((".py", ".bin")) or name == "adapter_config.json"]
