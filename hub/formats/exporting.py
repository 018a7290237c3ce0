"""`chatformer export`: write a Chatformer model in another format."""

from chatformer.configuration.sharing import ExportSettings

PACKAGES: dict[str, tuple[str, ...]] = {
    "marian": (),
    "ctranslate2": ("ctranslate2",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}
"""The packages that each format needs; the extra that installs them has the format's name."""

TORCH_FOR_ONNX = "2.10"
"""The earliest whose exports compute as the model does; 2.9 makes a constant of a size of 1 with some activations."""


def export(settings: ExportSettings) -> None:
    """Write a model in another format, and compare the written model with it."""
    from chatformer.hub.errors import HubError, optional_package

    if settings.quantization != "float32" and settings.to != "ctranslate2":
        raise HubError(f"--quantization {settings.quantization} is for --to ctranslate2; {settings.to} has float32.")
    packages = PACKAGES[settings.to]
    for package in packages:
        optional_package(package, extra=settings.to)
    import torch
    import transformers

    from chatformer.storage.model_folder import ModelFolder
    from chatformer.storage.writing import check_new_or_empty, whole_folder

    from .limits import check_has_layers, check_one_embedding
    from .parity import compare, encode_sentences, read_sentences, write_record

    # Its warnings are errors here.
    transformers.utils.logging.set_verbosity_error()
    check_new_or_empty(settings.output_dir)
    sentences = read_sentences(settings.sentences)
    source = ModelFolder.find(settings.model, settings.revision)
    source.show_commit()
    check_has_layers(source.config(), settings.model, settings.to)
    # torch's own versions know how to be compared.
    if settings.to == "onnx" and torch.__version__ < TORCH_FOR_ONNX:
        raise HubError(
            f"--to onnx needs torch {TORCH_FOR_ONNX} or later, and this is {torch.__version__}. Upgrade torch."
        )
    model = source.model(torch.float32)
    check_one_embedding(model, settings.model)
    tokenizer = source.tokenizer(vocab_size=model.config.vocab_size)
    sources = encode_sentences(tokenizer, sentences)
    with whole_folder(settings.output_dir) as folder:
        if settings.to == "marian":
            from .marian_format import marian_replies, write_marian

            write_marian(model, folder)
            replies = marian_replies(folder, sources)
        elif settings.to == "ctranslate2":
            from .ctranslate2_format import ctranslate2_replies, write_ctranslate2

            write_ctranslate2(model, tokenizer, folder, quantization=settings.quantization)
            replies = ctranslate2_replies(folder, sources, quantization=settings.quantization)
        else:
            from .onnx_format import onnx_replies, write_onnx

            write_onnx(model, folder)
            replies = onnx_replies(folder, model.config, sources)
        tokenizer.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        comparison = compare(model, sources, replies, settings.quantization)
        write_record(
            folder,
            source=settings.model,
            commit=source.commit,
            packages=["torch", "transformers", *packages],
            format=settings.to,
            quantization=settings.quantization,
            comparison=comparison,
        )
    print(f"{comparison}.\nWritten: {settings.output_dir}")
