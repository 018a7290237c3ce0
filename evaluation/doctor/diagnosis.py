"""What all checks found, and the diagnosis of data; without torch, whose import takes seconds."""

import dataclasses
from collections import Counter
from typing import Any

import datasets

from chatformer.configuration.data import TokenizerSettings
from chatformer.configuration.evaluation import DoctorSettings
from chatformer.data.preparation import are_of_several_turns, message_texts, read_conversations
from chatformer.data.prose import is_prose
from chatformer.data.tokenizer import train_tokenizer

from .conversations import Conversations
from .data import check_bad_rows, check_conversations, check_leaks
from .findings import Finding
from .lengths import Lengths, check_lengths, lengths_of
from .prose import check_prose, check_prose_leaks


@dataclasses.dataclass
class Diagnosis:
    """The findings about a subject, by section."""

    subject: str
    sections: dict[str, list[Finding]] = dataclasses.field(default_factory=dict)
    lengths: Lengths | None = None
    limits: tuple[int | None, int | None] = (None, None)
    bad_rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def severities(self) -> Counter[str]:
        return Counter(finding.severity for findings in self.sections.values() for finding in findings)


def diagnosis_of_data(settings: DoctorSettings) -> Diagnosis:
    """Examine files of conversations."""
    limits = settings.max_source_tokens, settings.max_target_tokens
    diagnosis = Diagnosis(" ".join(settings.subject), limits=limits)
    dataset, diagnosis.bad_rows = load(settings.subject, settings)
    findings = check_bad_rows(
        diagnosis.bad_rows, len(dataset) + len(diagnosis.bad_rows), left_out=settings.skip_bad_rows
    )
    tokenizer = None
    if limits != (None, None):
        # A limit counts tokens: those of the tokenizer that training would make.
        has_history = are_of_several_turns(dataset)
        tokenizer = train_tokenizer(message_texts(dataset), TokenizerSettings.vocab_size, has_history=has_history)
    conversations = Conversations(dataset)
    findings += data_findings(conversations, diagnosis, tokenizer)
    if settings.validation_data:
        validation, bad_rows = load(settings.validation_data, settings)
        diagnosis.bad_rows += bad_rows
        findings += check_bad_rows(bad_rows, len(validation) + len(bad_rows), left_out=settings.skip_bad_rows)
        findings += leak_findings(conversations, Conversations(validation))
    diagnosis.sections["The data"] = findings
    return diagnosis


def data_findings(conversations: Conversations, diagnosis: Diagnosis, tokenizer: Any) -> list[Finding]:
    """Examine conversations alone, and keep their lengths in the diagnosis."""
    diagnosis.lengths = lengths_of(conversations, tokenizer)
    source_limit, target_limit = diagnosis.limits
    return [
        *(check_prose if is_prose(conversations.dataset) else check_conversations)(conversations),
        *check_lengths(
            conversations, diagnosis.lengths, max_source_tokens=source_limit, max_target_tokens=target_limit
        ),
    ]


def leak_findings(training: Conversations, validation: Conversations) -> list[Finding]:
    """Whether validation finds what was learnt."""
    return (check_prose_leaks if is_prose(training.dataset) else check_leaks)(training, validation)


def load(data: tuple[str, ...], settings: DoctorSettings) -> tuple[datasets.Dataset, list[dict[str, Any]]]:
    """The conversations, and the bad rows as a file lists them."""
    loaded = read_conversations(data, settings, skip_bad_rows=True)
    return loaded.conversations, [dataclasses.asdict(row) for row in loaded.bad_rows]
