"""`chatformer push`: publish a model's folder as a repository on the Hub."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from chatformer.configuration.sharing import PushSettings

from .errors import HubError, as_hub_error

if TYPE_CHECKING:
    from chatformer.storage.run_folder import Records

    from .bundle import Bundle
    from .repositories import Repository
    from .samples import Sample


def publish(settings: PushSettings) -> None:
    """Publish a model's folder, and print its URL; raise a `HubError` if it cannot be published."""
    print(push(settings))


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What is published of a model's folder: its files, and the content of its card."""

    bundle: "Bundle"
    records: "Records"
    samples: "Sequence[Sample]"
    languages: Sequence[str]
    license: str | None
    kept_card: bytes | None
    """The folder's own card, if a person wrote or edited it."""

    @classmethod
    @as_hub_error()
    def prepare(cls, settings: PushSettings) -> "Publication":
        """Gather a folder; raise a `HubError` if the model is incomplete, or does not load and answer."""
        from chatformer.storage.names import EVALUATION_FILE
        from chatformer.storage.run_folder import Records

        from .bundle import gather
        from .card import evaluation_fits
        from .known_data import languages_of, license_of
        from .samples import media_files, questions_of, sample_conversations
        from .seal import own_card

        kept_card = None if settings.replace_card else own_card(settings.model)
        if kept_card is not None and (settings.language or settings.license):
            print(
                f"{settings.model} has a card of its own, which stays: --language and --license have no effect without "
                "--replace-card.",
                file=sys.stderr,
            )
        records = Records.read(Path(settings.model))
        if kept_card is None and not evaluation_fits(records, Path(settings.model)):
            print(
                f"{EVALUATION_FILE} was measured on other weights, so the card leaves it out: "
                "run `chatformer evaluate` again.",
                file=sys.stderr,
            )
            records = replace(records, evaluation={})
        questions = questions_of(records) if settings.hub_samples and kept_card is None else []
        languages = settings.language or languages_of(records)
        bundle = gather(settings.model, questions)
        # Even if the card is kept: a model that does not load and answer is not pushed.
        samples = sample_conversations(settings.model, questions, languages)
        if kept_card is None:
            bundle |= media_files(samples)
        return cls(
            bundle=bundle,
            records=records,
            samples=samples,
            languages=languages,
            license=settings.license or license_of(records),
            kept_card=kept_card,
        )

    def card(self, repo_id: str, revision: str, tags: Sequence[str] = ()) -> bytes:
        """The folder's own card, or a new one with code that loads `revision`."""
        from jinja2 import TemplateError

        from chatformer.storage.explaining import first_line

        from .card import write_card

        if self.kept_card is not None:
            return self.kept_card
        try:
            return write_card(
                self.records,
                self.samples,
                repo_id=repo_id,
                revision=revision,
                languages=self.languages,
                license=self.license,
                tags=tags,
            )
        # The records may not be as Chatformer writes them.
        except (AttributeError, KeyError, TypeError, ValueError, TemplateError) as error:
            raise HubError(
                f"The card cannot be written, as the records of the training or of its evaluation are not as "
                f"Chatformer writes them: {first_line(error)}"
            ) from error

    def notes(self) -> list[str]:
        """Notes on the card for its author, before it is published."""
        from chatformer.storage.explaining import counted

        from .samples import questions_of

        if self.kept_card is not None:
            return []
        questions = set(questions_of(self.records))
        num_shown = sum(question in questions for question, _ in self.samples)
        notes = {
            "The card names no language: say it with --language.": not self.languages,
            "The card names no licence: say it with --license.": self.license is None,
            (
                f"The card shows {counted(num_shown, 'question')} of the validation data: --no-hub-samples leaves none."
            ): num_shown,
        }
        return [note for note, applies in notes.items() if applies]


@as_hub_error()
def push(settings: PushSettings) -> str:
    """
    Publish a model's folder; return its URL.

    Files and card are one commit, so that no reader finds half of them. The hash of that commit is known only
    afterwards, so a second commit writes it into the card, which loads the branch until then. Raises a `HubError` if
    the model cannot be published.
    """
    from chatformer.storage.names import CARD_FILE

    from .bundle import REPLACED, gather
    from .repositories import Repository, changed, check_name, is_equal_at, outdated
    from .seal import is_ours, pinned_commit

    if settings.create_pr and settings.revision is not None:
        raise HubError("--create-pr proposes a change of main; it does not go with --revision.")
    check_name(settings.hub_model_id)
    publication = Publication.prepare(settings)
    branch = settings.revision or "main"
    if settings.dry_run or settings.output_dir is not None:
        return preview(publication, settings, branch)
    bundle = publication.bundle
    repository = Repository(settings.hub_model_id)
    repository.prepare(private=settings.hub_private_repo, revision=branch)
    head, remote = repository.files(branch)
    remote_card = repository.read(CARD_FILE, head) if CARD_FILE in remote else None
    if not (remote_card is None or is_ours(remote_card) or publication.kept_card or settings.replace_card):
        # Its author may have removed the conversations on purpose.
        bundle = gather(settings.model)
        publication = replace(publication, bundle=bundle, kept_card=remote_card)
        print("The card on the Hub was edited there, and stays; --replace-card overwrites it.", file=sys.stderr)
    additions = changed(bundle, remote)
    deletions = outdated(bundle, remote, REPLACED)
    if not additions and not deletions:
        # The card keeps naming its commit if that has the same files.
        pinned = pinned_commit(remote_card) if remote_card else None
        commit = pinned if pinned and is_equal_at(repository, pinned, bundle) else head
        new_card = changed({CARD_FILE: publication.card(repository.id, commit)}, remote)
        if not new_card:
            print("Nothing to do: the repository has all of it already.", file=sys.stderr)
            return page_of(repository, branch)
        answer = repository.commit(
            new_card, parent=head, revision=branch, message="Write the model card", create_pr=settings.create_pr
        )
        return answer.pr_url or page_of(repository, branch)
    answer = repository.commit(
        additions | {CARD_FILE: publication.card(repository.id, branch)},
        deletions=deletions,
        parent=head,
        revision=branch,
        message=settings.commit_message,
        create_pr=settings.create_pr,
    )
    if publication.kept_card is None:
        try:
            repository.commit(
                {CARD_FILE: publication.card(repository.id, answer.oid)},
                parent=answer.oid,
                revision=answer.pr_revision or branch,
                message=f"The model card names the commit {answer.oid[:7]}",
                create_pr=False,
            )
        except HubError as error:
            # The model is complete and loads; only its card names the branch instead of the commit.
            print(f"The model is pushed, but its card does not name the commit yet. {error}", file=sys.stderr)
    return answer.pr_url or page_of(repository, branch)


def preview(publication: Publication, settings: PushSettings, branch: str) -> str:
    """Print what would be pushed, and write it into a folder if the settings name one."""
    from chatformer.storage.names import CARD_FILE
    from chatformer.storage.writing import whole_folder

    from .bundle import size_of, write_bundle

    bundle = publication.bundle | {CARD_FILE: publication.card(settings.hub_model_id, branch)}
    if settings.output_dir is not None:
        with whole_folder(settings.output_dir) as folder:
            write_bundle(bundle, folder)
    for name, content in sorted(bundle.items()):
        print(f"{size_of(content):>12,}  {name}")
    for note in publication.notes():
        print(note, file=sys.stderr)
    where = f"Written to {settings.output_dir}" if settings.output_dir else f"Would go to {settings.hub_model_id}"
    return f"{where}: {sum(map(size_of, bundle.values())):,} bytes. Nothing was pushed."


def page_of(repository: "Repository", branch: str) -> str:
    """The address of a repository's branch."""
    return repository.url if branch == "main" else f"{repository.url}/tree/{quote(branch, safe='')}"
