"""Every file of a model's folder: its name, who writes it, and whether it travels to the Hub."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from chatformer.configuration.recipes import SETTINGS_FILE

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
WEIGHTS_PARTS = "model-*-of-*.safetensors"
"""A pattern: large models are saved in parts, which an index lists."""
WEIGHTS_FILES = (WEIGHTS_FILE, WEIGHTS_INDEX_FILE, WEIGHTS_PARTS)
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SENTENCEPIECE_FILE = "source.spm"
"""A MarianMT model has its tokenizer in this file and three others."""
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "target_vocab.json",
    "merges.txt",
    SENTENCEPIECE_FILE,
    "target.spm",
)

RECORD_FILE = "training_record.json"
LOG_FILE = "training_log.jsonl"
CURVES_FILE = "training_curves.png"
PICTURES = "*.png"
BAD_ROWS_FILES = ("bad_rows.jsonl", "bad_validation_rows.jsonl")
CHECKPOINT_PREFIX = "checkpoint-"
TRACKING_FOLDER = "runs"
EVALUATION_FILE = "evaluation.json"
EVALUATION_BAD_ROWS_FILE = "bad_evaluation_rows.jsonl"
DOCTOR_FILE = "doctor.json"
CONVERSION_FILE = "conversion.json"
CARD_FILE = "README.md"

CTRANSLATE2_FILE = "model.bin"
CTRANSLATE2_VOCABULARY_FILE = "shared_vocabulary.json"
ONNX_ENCODER_FILE, ONNX_DECODER_FILE = "encoder.onnx", "decoder.onnx"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files that one writer leaves in a model's folder."""

    patterns: tuple[str, ...]
    """Names, or patterns as `fnmatch` reads them."""
    writer: str
    travels: bool
    """True if `chatformer push` publishes them."""


KINDS = (
    Kind(patterns=(CONFIG_FILE, GENERATION_FILE, *WEIGHTS_FILES), writer="model.save_pretrained", travels=True),
    # Only the model's own scripts, which `hub/bundle.py` knows by name.
    Kind(patterns=("*.py",), writer="model.save_pretrained", travels=True),
    Kind(patterns=TOKENIZER_FILES, writer="tokenizer.save_pretrained", travels=True),
    Kind(patterns=(SETTINGS_FILE, RECORD_FILE, LOG_FILE), writer="chatformer train", travels=True),
    Kind(patterns=(PICTURES,), writer="chatformer train, chatformer doctor, chatformer plot", travels=True),
    # Rows of the author's data, and states of an optimizer.
    Kind(patterns=BAD_ROWS_FILES, writer="chatformer train --skip-bad-rows, chatformer doctor", travels=False),
    Kind(patterns=(f"{CHECKPOINT_PREFIX}*",), writer="chatformer train", travels=False),
    Kind(patterns=(TRACKING_FOLDER,), writer="chatformer train --log-with", travels=False),
    Kind(patterns=(EVALUATION_FILE,), writer="chatformer evaluate", travels=True),
    Kind(patterns=(EVALUATION_BAD_ROWS_FILE,), writer="chatformer evaluate --skip-bad-rows", travels=False),
    Kind(patterns=(DOCTOR_FILE,), writer="chatformer doctor", travels=False),
    Kind(patterns=(CONVERSION_FILE,), writer="chatformer import, chatformer export", travels=True),
    # Written for each commit of a repository.
    Kind(patterns=(CARD_FILE,), writer="chatformer push, push_to_hub", travels=True),
    Kind(
        patterns=(CTRANSLATE2_FILE, CTRANSLATE2_VOCABULARY_FILE, ONNX_ENCODER_FILE, ONNX_DECODER_FILE),
        writer="chatformer export",
        travels=False,
    ),
)
"""The files of a model's folder. `chatformer push` publishes no others."""

RECORD_FILES = (SETTINGS_FILE, RECORD_FILE, LOG_FILE, EVALUATION_FILE, CONVERSION_FILE)
"""How a model was trained or converted, and how good it is."""

WRITTEN_BY_A_RUN = (
    *(CONFIG_FILE, GENERATION_FILE, *WEIGHTS_FILES),
    *(TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *(SETTINGS_FILE, RECORD_FILE, LOG_FILE, CURVES_FILE, *BAD_ROWS_FILES),
)
"""
The files that a training run writes, and the only ones that `--overwrite-output-dir` removes, besides checkpoints.

The model's scripts are not among them: the next model replaces its own, and others are the author's.
"""
PUBLISHING_FOLDER = "publishing.partial"
"""Where a run completes a model before its files take their places."""
REMOVING_FOLDER = "removing"
"""Where files wait to be removed together."""

_CHECKPOINT = re.compile(rf"{CHECKPOINT_PREFIX}\d+(\.partial|\.outdated)?")
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.partial")


def is_written_by_a_run(name: str, *, is_folder: bool) -> bool:
    """True if a training run writes a file or a folder of this name, also if a killed run left it incomplete."""
    temporary = _TEMPORARY.fullmatch(name)
    if is_folder:
        is_being_removed = temporary is not None and temporary[1] == REMOVING_FOLDER
        return name == PUBLISHING_FOLDER or is_being_removed or _CHECKPOINT.fullmatch(name) is not None
    written = name if temporary is None else temporary[1]
    return any(fnmatchcase(written, pattern) for pattern in WRITTEN_BY_A_RUN)
