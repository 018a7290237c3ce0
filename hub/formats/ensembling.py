"""`chatformer ensemble`: make one model of several."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatformer.configuration.sharing import EnsembleSettings

if TYPE_CHECKING:
    from chatformer.storage.model_folder import ModelFolder

MAY_DIFFER = frozenset(
    {"dropout", "attention_dropout", "activation_dropout", "initializer_range", "embedding_initializer_range"}
)
"""Numbers of a model that only its training needs."""
PARTS = ("model.encoder", "model.decoder", "model.shared", "lm_head")
"""Where an ensemble has its members' weights."""


def ensemble(settings: EnsembleSettings) -> None:
    """Write the folder of a model whose members are other models."""
    # Only now, with correct flags: these take seconds to import.
    from chatformer import EnsembleConfig, EnsembleForConditionalGeneration
    from chatformer.hub.errors import HubError
    from chatformer.storage.model_folder import ModelFolder
    from chatformer.storage.writing import check_new_or_empty, whole_folder

    check_new_or_empty(settings.output_dir)
    if len(settings.models) < 2:
        raise HubError("An ensemble needs at least two models: give their folders, or their ids on the Hub.")
    folders = [ModelFolder.find(name) for name in settings.models]
    for folder in folders:
        folder.show_commit()
    check_data(folders)
    first, *others = models = [folder.model() for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        if model.config.model_type != "chatformer":
            raise HubError(f"{folder.name} is no Transformer, but {model.config.model_type!r}: it cannot be a member.")
    tokenizer, *other_tokenizers = [folder.tokenizer(vocab_size=first.config.vocab_size) for folder in folders]
    for folder, model, other in zip(folders[1:], others, other_tokenizers, strict=True):
        check_shape(model.config, folder.name, first.config, folders[0].name)
        if other.get_vocab() != tokenizer.get_vocab() or other.chat_template != tokenizer.chat_template:
            raise HubError(
                f"{folder.name} has another tokenizer than {folders[0].name}: members must read and write the same "
                "tokens. Train them on the same data, with a validation file instead of a share chosen by the seed."
            )
    config = EnsembleConfig(num_members=len(models), **shape_of(first.config))
    model = EnsembleForConditionalGeneration(config).to(first.dtype)
    model.load_state_dict(weights_of(models))
    model.generation_config = first.generation_config
    with whole_folder(settings.output_dir) as output:
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
        write_records(output, folders, num_parameters=model.num_parameters())
    print(f"{len(models)} models of {first.num_parameters():,} parameters each, as one. Written: {settings.output_dir}")


def shape_of(config: Any) -> dict[str, Any]:
    """The fields of a Transformer's configuration, without those that say where it is from."""
    from chatformer import ChatformerConfig

    own = set(ChatformerConfig.__annotations__) | set(ChatformerConfig.__base__.__annotations__)
    return {name: getattr(config, name) for name in sorted(own - {"own_code", "keys_to_ignore_at_inference"})}


def check_shape(config: Any, name: str, first: Any, first_name: str) -> None:
    """Raise a `HubError` unless a model has the shape of the first."""
    from chatformer.hub.errors import HubError

    for field, value in shape_of(config).items():
        expected = getattr(first, field)
        if field not in MAY_DIFFER and value != expected:
            raise HubError(
                f"Members must have one shape, but {field} is {expected!r} in {first_name} and {value!r} in {name}."
            )


def check_data(folders: "Sequence[ModelFolder]") -> None:
    """Raise a `HubError` if one member was trained on what another was validated on, as far as their records say."""
    from chatformer.hub.errors import HubError
    from chatformer.storage.run_folder import Records

    first = None
    for folder in folders:
        data = Records.read(folder.folder).record.get("data")
        hashes = data and (data.get("training_sha256"), data.get("validation_sha256"))
        first = first or (hashes and (folder.name, hashes))
        if hashes and first and hashes != first[1]:
            raise HubError(
                f"{folder.name} was trained or validated on other data than {first[0]}, so one may have learnt what "
                "the other was judged by. Train the members on the same files, given by --data and --validation-data."
            )


def weights_of(models: Sequence[Any]) -> dict[str, Any]:
    """The members' weights under their names in an ensemble."""
    weights = {}
    for index, model in enumerate(models):
        for name, weight in model.state_dict().items():
            part = next(part for part in PARTS if name.startswith(f"{part}."))
            weights[f"{part}.members.{index}{name.removeprefix(part)}"] = weight
    return weights


def write_records(output: Path, folders: "Sequence[ModelFolder]", *, num_parameters: int) -> None:
    """Write what the members' trainings have in common: their data, by which the ensemble is evaluated."""
    import shutil

    from chatformer.storage.names import RECORD_FILE, SETTINGS_FILE
    from chatformer.storage.run_folder import Records
    from chatformer.storage.writing import write_json

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
