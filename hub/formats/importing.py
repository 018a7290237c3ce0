"""`chatformer import`: turn a MarianMT checkpoint into a Chatformer model."""

import sys
from importlib import resources
from pathlib import Path
from typing import Any

from chatformer.configuration.sharing import ImportSettings


def import_marian(settings: ImportSettings) -> None:
    """Write the Chatformer model that equals a MarianMT checkpoint, and compare the two."""
    # Only now, with correct flags: these take seconds to import.
    import torch
    import transformers

    from chatformer.storage.model_folder import ModelFolder
    from chatformer.storage.writing import check_new_or_empty, whole_folder

    from .marian_format import copy_tokenizer, from_marian, load_marian
    from .parity import compare, encode_sentences, random_sources, read_sentences, torch_reply, write_record

    # Its warnings are errors here.
    transformers.utils.logging.set_verbosity_error()
    check_new_or_empty(settings.output_dir)
    sentences = read_sentences(settings.sentences)
    marian = load_marian(settings.checkpoint, settings.revision)
    model = from_marian(marian)
    if marian.config.scale_embedding:
        # Scaled weights stay in float32: half precision would round them again.
        model.to(marian.config.dtype)  # type: ignore[arg-type]
    vocab_size = model.config.vocab_size
    with whole_folder(settings.output_dir) as folder:
        model.save_pretrained(folder)
        model_folder = ModelFolder(str(folder), folder)
        if copy_tokenizer(settings.checkpoint, settings.revision, folder):
            tokenizer = with_chat_template(model_folder.tokenizer(vocab_size=vocab_size), folder)
            sources = encode_sentences(tokenizer, sentences)
        else:
            print(f"{settings.checkpoint} has no tokenizer: compared on random ids.", file=sys.stderr)
            sources = random_sources(vocab_size)
        converted_model = model_folder.model(torch.float32)
        comparison = compare(marian, sources, [torch_reply(converted_model, source) for source in sources], "float32")
        write_record(
            folder,
            source=settings.checkpoint,
            commit=getattr(marian.config, "_commit_hash", None),
            packages=["torch", "transformers"],
            format="marian",
            comparison=comparison,
        )
    for key in ("encoder_layerdrop", "decoder_layerdrop"):
        if getattr(marian.config, key):
            print(f"{key} ({getattr(marian.config, key)}), which matters to training only, is left out.")
    print(f"{comparison}.\nWritten: {settings.output_dir}")


def with_chat_template(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer of `folder` with a chat template, by which `generate`, `chat` and `evaluate` encode text."""
    from chatformer.storage.writing import write_text

    if tokenizer.chat_template is None:
        tokenizer.chat_template = resources.files("chatformer.hub").joinpath("text_template.jinja").read_text("utf-8")
        write_text(folder / "chat_template.jinja", tokenizer.chat_template)
    return tokenizer
