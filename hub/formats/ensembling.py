"""`chatformer ensemble`: make one model of several."""

import functools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
NO_SHAPE = ONLY_TO_TRAIN | {"max_position_embeddings", "use_cache", "pictures_stand_alone"}
"""Fields in which members may differ: longer inputs extend the table of positions."""
PARTS = ("model.encoder", "model.decoder", "model.shared", "lm_head")
"""Where an ensemble has its members' weights."""


class Member(NamedTuple):
    """What is known of a member before its weights are loaded."""

    folder: ModelFolder
    config: Any
    records: Records
    weights_sha256: dict[str, str]

    @classmethod
    def of(cls, name: str) -> "Member":
        """Find a member; raise a `HubError` unless it is a Transformer."""
        folder = ModelFolder.find(name, with_records=True)
        folder.show_commit()
        config = folder.config()
        if config.model_type == EnsembleConfig.model_type:
            raise HubError(f"{name} is an ensemble itself: give its members, in its place.")
        if config.model_type != ChatformerConfig.model_type:
            raise HubError(
                f"The members of an ensemble must be Transformers, but {name} is a model {config.model_type!r}."
            )
        for file in (SETTINGS_FILE, RECORD_FILE):
            # On the Hub, it may be of any size.
            folder.has(file)
        return cls(folder, config, Records.read(folder.folder), folder.weights_sha256())

    @property
    def name(self) -> str:
        """What the user called it."""
        return self.folder.name


def ensemble(settings: EnsembleSettings) -> None:
    """Write the folder of a model whose members are other models."""
    check_new_or_empty(settings.output_dir)
    if len(settings.models) < 2:
        raise HubError("An ensemble needs at least two models: give their folders, or their ids on the Hub.")
    members = [Member.of(name) for name in settings.models]
    check_data(members)
    check_shape(members)
    check_differ(members)
    tokenizer = common_tokenizer(members)
    first, *_ = models = [member.folder.model() for member in members]
    fields = fields_of(first.config)
    fields["max_position_embeddings"] = max(member.config.max_position_embeddings for member in members)
    config = EnsembleConfig(num_members=len(members), **fields)
    # One that holds the weights of every member as they are.
    dtype = functools.reduce(torch.promote_types, (model.dtype for model in models))
    model = EnsembleForConditionalGeneration(config).to(dtype)
    model.load_state_dict(weights_of(models))
    model.generation_config = first.generation_config
    with whole_folder(settings.output_dir) as output:
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
        write_records(output, members, num_parameters=model.num_parameters())
    print(f"{len(models)} models of {first.num_parameters():,} parameters each, as one. Written: {settings.output_dir}")


def check_data(members: Sequence[Member]) -> None:
    """Raise a `HubError` if one member may have learnt what another was judged by; say so if no record tells."""
    first: tuple[str, Any] | None = None
    for member in members:
        data = member.records.record.get("data")
        if not isinstance(data, dict):
            print(
                f"{member.name} has no record of its data: it may have learnt what the others were judged by.",
                file=sys.stderr,
            )
            continue
        hashes = data.get("training_sha256"), data.get("validation_sha256")
        first = first or (member.name, hashes)
        if hashes != first[1]:
            raise HubError(
                f"{member.name} was trained or validated on other conversations than {first[0]}: one may have learnt "
                "what the other was judged by. Train all members on the same files, with --validation-data or, since "
                "each --seed holds out others, with one --split-seed."
            )


def check_differ(members: Sequence[Member]) -> None:
    """Raise a `HubError` if two members have the same weights: together they would say what one says."""
    names: dict[str, str] = {}
    for member in members:
        weights = str(member.weights_sha256)
        if weights in names:
            raise HubError(
                f"{member.name} has the same weights as {names[weights]}: train each member from another --seed."
            )
        names[weights] = member.name


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a Transformer's configuration that `ChatformerConfig` and its base declare."""
    names = [name for home in (ChatformerConfig, ChatformerConfig.__base__) for name in home.__annotations__]
    return {name: getattr(config, name) for name in names}


def check_shape(members: Sequence[Member]) -> None:
    """Raise a `HubError` unless all members have the shape of the first."""
    first, *others = members
    for member in others:
        for field, value in fields_of(member.config).items():
            expected = getattr(first.config, field)
            if field not in NO_SHAPE and value != expected:
                raise HubError(
                    f"The members of an ensemble must have one shape, but {field} is {expected!r} in {first.name} and "
                    f"{value!r} in {member.name}."
                )


def common_tokenizer(members: Sequence[Member]) -> Any:
    """The tokenizer of all members; a `HubError` if they differ."""
    first, *others = [member.folder.tokenizer(vocab_size=member.config.vocab_size) for member in members]
    for member, tokenizer in zip(members[1:], others, strict=True):
        if spelling(tokenizer) != spelling(first):
            raise HubError(
                f"{member.name} has another tokenizer than {members[0].name}: the members of an ensemble must read and "
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


def write_records(output: Path, members: Sequence[Member], *, num_parameters: int) -> None:
    """Write who the members are, and what their trainings have in common, such as the data that judges the ensemble."""
    record: dict[str, Any] = {"finished": True, "members": [about(member) for member in members]}
    told = next((member for member in members if member.records.record), None)
    if told is not None:
        own = told.records.record
        record |= {name: own[name] for name in ("data", "overview", "environment") if name in own}
        if isinstance(record.get("overview"), dict):
            record["overview"] |= {"parameters": num_parameters}
        if told.records.settings:
            shutil.copyfile(told.folder.folder / SETTINGS_FILE, output / SETTINGS_FILE)
    write_json(output / RECORD_FILE, record)


def about(member: Member) -> dict[str, Any]:
    """What an ensemble records of a member."""
    folder = member.folder
    return {
        "name": folder.name if folder.commit else Path(folder.name).absolute().name,
        "commit": folder.commit,
        "seed": member.records.settings.get("seed"),
        "weights_sha256": member.weights_sha256,
    }
