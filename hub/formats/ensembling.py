"""`chatformer ensemble`: make one model of several."""

import functools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from chatformer import ChatformerConfig, EnsembleConfig, EnsembleForConditionalGeneration
from chatformer.configuration.sharing import EnsembleSettings
from chatformer.hub.errors import HubError
from chatformer.storage.model_folder import ModelFolder
from chatformer.storage.names import RECORD_FILE, SETTINGS_FILE
from chatformer.storage.run_folder import Records
from chatformer.storage.writing import check_new_or_empty, whole_folder, write_json

ONLY_TO_TRAIN = frozenset(
    {"dropout", "attention_dropout", "activation_dropout", "initializer_range", "embedding_initializer_range"}
)
"""Fields of a configuration that only training needs."""
NO_SHAPE = ONLY_TO_TRAIN | {"max_position_embeddings", "use_cache"}
"""Fields in which members may differ: longer inputs extend the table of positions."""
PARTS = ("model.encoder", "model.decoder", "model.shared", "lm_head")
"""Where an ensemble has its members' weights."""


def ensemble(settings: EnsembleSettings) -> None:
    """Write the folder of a model whose members are other models."""
    check_new_or_empty(settings.output_dir)
    if len(settings.models) < 2:
        raise HubError("An ensemble needs at least two models: give their folders, or their ids on the Hub.")
    folders = [ModelFolder.find(name, with_records=True) for name in settings.models]
    for folder in folders:
        folder.show_commit()
        check_is_transformer(folder)
    records = [records_of(folder) for folder in folders]
    check_data(folders, records)
    configs = [folder.config() for folder in folders]
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        check_shape(config, folder.name, configs[0], folders[0].name)
    weights_sha256 = check_differ(folders)
    tokenizer = common_tokenizer(folders, vocab_size=configs[0].vocab_size)
    first, *_ = models = [folder.model() for folder in folders]
    fields = fields_of(first.config)
    fields["max_position_embeddings"] = max(config.max_position_embeddings for config in configs)
    config = EnsembleConfig(num_members=len(models), **fields)
    # One that holds the weights of every member as they are.
    dtype = functools.reduce(torch.promote_types, (model.dtype for model in models))
    model = EnsembleForConditionalGeneration(config).to(dtype)
    model.load_state_dict(weights_of(models))
    model.generation_config = first.generation_config
    with whole_folder(settings.output_dir) as output:
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
        write_records(output, folders, records, weights_sha256, num_parameters=model.num_parameters())
    print(f"{len(models)} models of {first.num_parameters():,} parameters each, as one. Written: {settings.output_dir}")


def check_is_transformer(folder: ModelFolder) -> None:
    """Raise a `HubError` unless a folder has a Transformer."""
    model_type = folder.config().model_type
    if model_type == EnsembleConfig.model_type:
        raise HubError(f"{folder.name} is an ensemble itself: give its members, in its place.")
    if model_type != ChatformerConfig.model_type:
        raise HubError(f"The members of an ensemble must be Transformers, but {folder.name} is a model {model_type!r}.")


def records_of(folder: ModelFolder) -> Records:
    """What a member's training has recorded."""
    for file in (SETTINGS_FILE, RECORD_FILE):
        # On the Hub, it may be of any size.
        folder.has(file)
    return Records.read(folder.folder)


def check_data(folders: Sequence[ModelFolder], records: Sequence[Records]) -> None:
    """Raise a `HubError` if one member may have learnt what another was judged by; say so if no record tells."""
    first: tuple[str, Any] | None = None
    for folder, each in zip(folders, records, strict=True):
        data = each.record.get("data")
        if not isinstance(data, dict):
            print(
                f"{folder.name} has no record of its data: it may have learnt what the others were judged by.",
                file=sys.stderr,
            )
            continue
        hashes = data.get("training_sha256"), data.get("validation_sha256")
        first = first or (folder.name, hashes)
        if hashes != first[1]:
            raise HubError(
                f"{folder.name} was trained or validated on other conversations than {first[0]}: one may have learnt "
                "what the other was judged by. Train all members on the same files, with --validation-data or, since "
                "each --seed holds out others, with one --split-seed."
            )


def check_differ(folders: Sequence[ModelFolder]) -> list[dict[str, str]]:
    """The checksums of each member's weights; a `HubError` if two are equal: together they would say what one says."""
    names: dict[str, str] = {}
    checksums = [folder.weights_sha256() for folder in folders]
    for folder, weights in zip(folders, map(str, checksums), strict=True):
        if weights in names:
            raise HubError(
                f"{folder.name} has the same weights as {names[weights]}: train each member from another --seed."
            )
        names[weights] = folder.name
    return checksums


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a Transformer's configuration that `ChatformerConfig` and its base declare."""
    names = [name for home in (ChatformerConfig, ChatformerConfig.__base__) for name in home.__annotations__]
    return {name: getattr(config, name) for name in names}


def check_shape(config: Any, name: str, first: Any, first_name: str) -> None:
    """Raise a `HubError` unless a model has the shape of the first."""
    for field, value in fields_of(config).items():
        expected = getattr(first, field)
        if field not in NO_SHAPE and value != expected:
            raise HubError(
                f"The members of an ensemble must have one shape, but {field} is {expected!r} in {first_name} and "
                f"{value!r} in {name}."
            )


def common_tokenizer(folders: Sequence[ModelFolder], *, vocab_size: int) -> Any:
    """The tokenizer of all members; a `HubError` if they differ."""
    first, *others = [folder.tokenizer(vocab_size=vocab_size) for folder in folders]
    for folder, tokenizer in zip(folders[1:], others, strict=True):
        if spelling(tokenizer) != spelling(first):
            raise HubError(
                f"{folder.name} has another tokenizer than {folders[0].name}: the members of an ensemble must read and "
                "write the same tokens. Train them on the same files, given by --data and --validation-data."
            )
    return first


def spelling(tokenizer: Any) -> tuple[Any, Any]:
    """All that decides which tokens a tokenizer makes of a conversation."""
    # A slow tokenizer, such as Marian's, has no backend.
    backend = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.get_vocab()
    return backend, tokenizer.chat_template


def weights_of(models: Sequence[Any]) -> dict[str, Any]:
    """The members' weights under their names in an ensemble."""
    weights = {}
    for index, model in enumerate(models):
        for name, weight in model.state_dict().items():
            part = next(part for part in PARTS if name.startswith(f"{part}."))
            weights[f"{part}.members.{index}{name.removeprefix(part)}"] = weight
    return weights


def write_records(
    output: Path,
    folders: Sequence[ModelFolder],
    records: Sequence[Records],
    weights_sha256: Sequence[dict[str, str]],
    *,
    num_parameters: int,
) -> None:
    """Write who the members are, and what their trainings have in common, such as the data that judges the ensemble."""
    members = [
        {
            "name": folder.name if folder.commit else Path(folder.name).absolute().name,
            "commit": folder.commit,
            "seed": each.settings.get("seed"),
            "weights_sha256": checksums,
        }
        for folder, each, checksums in zip(folders, records, weights_sha256, strict=True)
    ]
    record: dict[str, Any] = {"finished": True, "members": members}
    for folder, each in zip(folders, records, strict=True):
        if each.record:
            record |= {name: each.record[name] for name in ("data", "overview", "environment") if name in each.record}
            if isinstance(record.get("overview"), dict):
                record["overview"] |= {"parameters": num_parameters}
            if each.settings:
                shutil.copyfile(folder.folder / SETTINGS_FILE, output / SETTINGS_FILE)
            break
    write_json(output / RECORD_FILE, record)
