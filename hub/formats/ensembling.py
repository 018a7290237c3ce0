"""`chatformer ensemble`: make one model of several."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
PARTS = ("model.encoder", "model.decoder", "model.shared", "lm_head")
"""Where an ensemble has its members' weights."""


def ensemble(settings: EnsembleSettings) -> None:
    """Write the folder of a model whose members are other models."""
    check_new_or_empty(settings.output_dir)
    if len(settings.models) < 2:
        raise HubError("An ensemble needs at least two models: give their folders, or their ids on the Hub.")
    folders = [ModelFolder.find(name) for name in settings.models]
    for folder in folders:
        folder.show_commit()
        check_is_transformer(folder)
    check_data(folders)
    check_differ(folders)
    first, *others = models = [folder.model() for folder in folders]
    for folder, model in zip(folders[1:], others, strict=True):
        check_shape(model.config, folder.name, first.config, folders[0].name)
    tokenizer = common_tokenizer(folders, vocab_size=first.config.vocab_size)
    config = EnsembleConfig(num_members=len(models), **fields_of(first.config))
    model = EnsembleForConditionalGeneration(config).to(first.dtype)
    model.load_state_dict(weights_of(models))
    model.generation_config = first.generation_config
    with whole_folder(settings.output_dir) as output:
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
        write_records(output, folders, num_parameters=model.num_parameters())
    print(f"{len(models)} models of {first.num_parameters():,} parameters each, as one. Written: {settings.output_dir}")


def check_is_transformer(folder: ModelFolder) -> None:
    """Raise a `HubError` unless a folder has a Transformer."""
    model_type = folder.config().model_type
    if model_type != ChatformerConfig.model_type:
        raise HubError(f"The members of an ensemble must be Transformers, but {folder.name} is a model {model_type!r}.")


def check_data(folders: Sequence[ModelFolder]) -> None:
    """Raise a `HubError` if one member may have learnt what another was judged by, as far as their records say."""
    first: tuple[str, Any] | None = None
    for folder in folders:
        data = Records.read(folder.folder).record.get("data")
        if not isinstance(data, dict):
            continue
        hashes = data.get("training_sha256"), data.get("validation_sha256")
        first = first or (folder.name, hashes)
        if hashes != first[1]:
            raise HubError(
                f"{folder.name} was trained or validated on other data than {first[0]}: one may have learnt what the "
                "other was judged by. Train all members on the same files, given by --data and --validation-data."
            )


def check_differ(folders: Sequence[ModelFolder]) -> None:
    """Raise a `HubError` if two members have the same weights: together they would say what one says."""
    names: dict[str, str] = {}
    for folder in folders:
        weights = str(folder.weights_sha256())
        if weights in names:
            raise HubError(
                f"{folder.name} has the same weights as {names[weights]}: train each member from another --seed."
            )
        names[weights] = folder.name


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a Transformer's configuration that `ChatformerConfig` and its base declare."""
    names = [name for home in (ChatformerConfig, ChatformerConfig.__base__) for name in home.__annotations__]
    return {name: getattr(config, name) for name in names}


def check_shape(config: Any, name: str, first: Any, first_name: str) -> None:
    """Raise a `HubError` unless a model has the shape of the first."""
    for field, value in fields_of(config).items():
        expected = getattr(first, field)
        if field not in ONLY_TO_TRAIN and value != expected:
            raise HubError(
                f"The members of an ensemble must have one shape, but {field} is {expected!r} in {first_name} and "
                f"{value!r} in {name}."
            )


def common_tokenizer(folders: Sequence[ModelFolder], *, vocab_size: int) -> Any:
    """The tokenizer of all members; a `HubError` if they differ."""
    first, *others = [folder.tokenizer(vocab_size=vocab_size) for folder in folders]
    for folder, tokenizer in zip(folders[1:], others, strict=True):
        if tokenizer.get_vocab() != first.get_vocab() or tokenizer.chat_template != first.chat_template:
            raise HubError(
                f"{folder.name} has another tokenizer than {folders[0].name}: the members of an ensemble must read and "
                "write the same tokens. Train them on the same files, given by --data and --validation-data."
            )
    return first


def weights_of(models: Sequence[Any]) -> dict[str, Any]:
    """The members' weights under their names in an ensemble."""
    weights = {}
    for index, model in enumerate(models):
        for name, weight in model.state_dict().items():
            part = next(part for part in PARTS if name.startswith(f"{part}."))
            weights[f"{part}.members.{index}{name.removeprefix(part)}"] = weight
    return weights


def write_records(output: Path, folders: Sequence[ModelFolder], *, num_parameters: int) -> None:
    """Write what the members' trainings have in common, such as the data by which the ensemble is evaluated."""
    first = folders[0].folder
    records = Records.read(first)
    if not records.record:
        return
    if records.settings:
        shutil.copyfile(first / SETTINGS_FILE, output / SETTINGS_FILE)
    record = {name: records.record[name] for name in ("data", "overview", "environment") if name in records.record}
    if isinstance(record.get("overview"), dict):
        record["overview"] |= {"parameters": num_parameters}
    members = [
        {"name": Path(folder.name).name, "commit": folder.commit, "weights_sha256": folder.weights_sha256()}
        for folder in folders
    ]
    write_json(output / RECORD_FILE, record | {"finished": True, "members": members})
