import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration

# The models here are small, and threads would only contend.
torch.set_num_threads(1)

VOCAB_SIZE = 101
CONTROL = ["<pad>", "<start>", "<end>", "<unk>"]


def randomized(model):
    """Fill in weights, biases and norms included, whose replies are no endless repetition."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_((0.1 if "shared" in name or parameter.dim() == 1 else 0.5) * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def make_model():
    def make(**fields):
        shape = {"d_model": 48, "d_ff": 70, "num_heads": 3, "encoder_layers": 1, "decoder_layers": 2}
        # Larger embeddings repeat the last token.
        shape["embedding_initializer_range"] = 0.02
        torch.manual_seed(0)
        config = ChatformerConfig(**{"vocab_size": VOCAB_SIZE, "max_position_embeddings": 4, **shape, **fields})
        return randomized(ChatformerForConditionalGeneration(config))

    return make


@pytest.fixture
def make_marian():
    def make(**fields):
        shape = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 64}
        shape |= {f"{stack}_ffn_dim": 70 for stack in ("encoder", "decoder")}
        shape |= {f"{stack}_attention_heads": 3 for stack in ("encoder", "decoder")}
        tokens = {"vocab_size": VOCAB_SIZE, "pad_token_id": 100, "decoder_start_token_id": 100, "eos_token_id": 0}
        switches = {"activation_function": "swish", "scale_embedding": True}
        torch.manual_seed(0)
        marian = randomized(MarianMTModel(MarianConfig(**{**shape, **tokens, **switches, **fields})))
        marian.final_logits_bias.normal_()
        return marian

    return make


@pytest.fixture
def tokenizer():
    """A tokenizer of characters with fewer tokens than the model has rows, its padding first."""
    letters = [chr(code) for code in range(33, 33 + 90)]
    vocabulary = {token: row for row, token in enumerate([*CONTROL, *letters])}
    whole = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    whole.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>"
    )


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    """Return a function that writes a model and its tokenizer, and returns the folder and the model."""

    def save(**fields):
        model = make_model(**fields)
        folder = tmp_path / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder, model

    return save


@pytest.fixture(scope="session")
def hub_server():
    """Return the module of the local Hub; tests are no package that it could be imported from."""
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hub(hub_server, tmp_path_factory):
    """A Hub of this module's own, with a store for Xet."""
    with hub_server.HubServer(tmp_path_factory.mktemp("xet")).running() as running:
        yield running


@pytest.fixture(scope="session")
def client_environment(tmp_path_factory):
    """Return a function that makes the environment of a new client: its own empty cache, one thread, one Hub."""

    def make(hub, token=None, *, xet=False):
        left_out = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_HUB_DISABLE_XET")
        return {name: value for name, value in os.environ.items() if name not in left_out} | {
            "CUDA_VISIBLE_DEVICES": "",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path_factory.mktemp("client")),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "PYTHONUTF8": "1",
            **({"HF_TOKEN": token} if token else {}),
            **({} if xet else {"HF_HUB_DISABLE_XET": "1"}),
        }

    return make


@pytest.fixture(scope="session")
def run_client(client_environment, tmp_path_factory):
    """Return a function that runs a script in a new client and returns the object that it prints as its last line."""

    def run(hub, script, argument=None, *, token=None, xet=False):
        process = subprocess.run(
            [sys.executable, "-c", script, json.dumps(argument)],
            env=client_environment(hub, token, xet=xet),
            cwd=tmp_path_factory.mktemp("elsewhere"),
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    return run


COMMANDS = """
import contextlib, io, json, os, sys
from chatformer.cli.main import main

answers = sys.stdout
for line in sys.stdin:
    token, arguments = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    sys.argv = ["chatformer", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main()
    print(json.dumps([status, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""


class CommandLine:
    """A process that runs one command of Chatformer's after another, as it takes seconds to start."""

    def __init__(self, hub, environment):
        self.hub = hub
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def begin(self, *arguments, token=None):
        self.process.stdin.write(json.dumps([token, [str(argument) for argument in arguments]]) + "\n")
        self.process.stdin.flush()

    def run(self, *arguments, token=None):
        """Return the exit status, the output and the errors of a command."""
        self.begin(*arguments, token=token)
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def make_command_line(hub, client_environment):
    started = []

    def make(**options):
        started.append(CommandLine(hub, client_environment(hub, **options)))
        return started[-1]

    yield make
    for command_line in started:
        command_line.stop()


@pytest.fixture(scope="module")
def chatformer(make_command_line):
    """Return a function that runs a command of Chatformer's, its token Alice's unless given, in a client of its own."""
    return make_command_line()
