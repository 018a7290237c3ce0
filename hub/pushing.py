"""`chatformer push`: a model's folder becomes a repository on the Hub."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import tyro

from .settings import PushSettings

if TYPE_CHECKING:
    from .bundle import Bundle
    from .card import Records, Sample
    from .repositories import Repository


def main(arguments: Sequence[str], program: str = "chatformer push") -> int:
    """Push as a command line says; return the exit status."""
    settings = tyro.cli(PushSettings, args=list(arguments), prog=program)
    from .errors import HubError

    try:
        print(push(settings))
    except HubError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A model's folder as it travels: its files, and what its card is written from."""

    bundle: "Bundle"
    records: "Records"
    samples: "Sequence[Sample]"
    languages: Sequence[str]
    license: str | None
    kept_card: bytes | None
    """The folder's own card, where a person wrote or edited it."""

    @classmethod
    def prepare(cls, settings: PushSettings) -> "Publication":
        """Gather a folder; raise a `HubError` where it is no whole model, or does not load and answer."""
        from .bundle import gather
        from .card import Records, languages_of, license_of, own_card, sample_conversations

        kept_card = None if settings.replace_card else own_card(settings.model)
        records = Records.read(Path(settings.model))
        if kept_card is None and not records.evaluation_fits(Path(settings.model)):
            print(
                "evaluation.json was measured on other weights, run `chatformer evaluate` again: the card leaves it "
                "out.",
                file=sys.stderr,
            )
            records = replace(records, evaluation={})
        questions = records.questions() if settings.samples and kept_card is None else []
        languages = settings.language or languages_of(records)
        return cls(
            bundle=gather(settings.model, questions),
            records=records,
            # Also where the card is kept: what cannot be loaded and does not answer is not pushed.
            samples=sample_conversations(settings.model, questions, languages),
            languages=languages,
            license=settings.license or license_of(records),
            kept_card=kept_card,
        )

    def card(self, repo_id: str, revision: str, tags: Sequence[str] = ()) -> bytes:
        """Return the folder's own card, or one that tells people to load `revision`."""
        from jinja2 import TemplateError

        from .card import write_card
        from .errors import HubError, first_line

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
        # Of records that hold something else than Chatformer writes there.
        except (AttributeError, KeyError, TypeError, ValueError, TemplateError) as error:
            raise HubError(
                f"The card cannot be written, as the records of the training or of its evaluation are not as "
                f"Chatformer writes them: {first_line(error)}"
            ) from error

    def notes(self) -> list[str]:
        """Return what an author would want to know of the card before it is published."""
        if self.kept_card is not None:
            return []
        questions = set(self.records.questions())
        num_shown = sum(question in questions for question, _ in self.samples)
        notes = {
            "The card names no language: say it with --language.": not self.languages,
            "The card names no licence: say it with --license.": self.license is None,
            f"The card shows {num_shown} questions of the validation data: --no-samples leaves them out.": num_shown,
        }
        return [note for note, applies in notes.items() if applies]


def push(settings: PushSettings) -> str:
    """
    Publish a model's folder; return the URL of what was pushed.

    Files and card go up in one commit, so that no reader ever finds half of them. Its hash is known only then, so a
    second commit puts it into the card, which until then tells to load the branch. Raises a `HubError` where it cannot
    be done.
    """
    import transformers

    from .bundle import CARD, REPLACED, gather, size_of
    from .card import is_ours, pinned_commit
    from .errors import HubError
    from .folders import whole_or_nothing
    from .repositories import Repository, changed, check_name, is_equal_at, outdated

    transformers.utils.logging.disable_progress_bar()
    if settings.create_pr and settings.revision is not None:
        raise HubError("--create-pr proposes a change of main; it does not go with --revision.")
    check_name(settings.repo)
    publication = Publication.prepare(settings)
    bundle = publication.bundle
    branch = settings.revision or "main"
    if settings.dry_run or settings.output_dir is not None:
        bundle[CARD] = publication.card(settings.repo, branch)
        if settings.output_dir is not None:
            with whole_or_nothing(settings.output_dir) as folder:
                for name, content in bundle.items():
                    if isinstance(content, Path):
                        shutil.copyfile(content, folder / name)
                    else:
                        (folder / name).write_bytes(content)
        for name, content in sorted(bundle.items()):
            print(f"{size_of(content):>12,}  {name}")
        for note in publication.notes():
            print(note, file=sys.stderr)
        where = f"Written to {settings.output_dir}" if settings.output_dir else f"Would go to {settings.repo}"
        return f"{where}: {sum(map(size_of, bundle.values())):,} bytes. Nothing was pushed."

    repository = Repository(settings.repo)
    repository.prepare(private=settings.private, revision=branch)
    head, remote = repository.files(branch)
    remote_card = repository.read(CARD, head) if CARD in remote else None
    if not (remote_card is None or is_ours(remote_card) or publication.kept_card or settings.replace_card):
        # Whoever edited it may have taken the conversations out on purpose.
        bundle = gather(settings.model)
        publication = replace(publication, bundle=bundle, kept_card=remote_card)
        print("The card on the Hub was edited there, and stays; --replace-card writes it anew.", file=sys.stderr)
    new = changed(bundle, remote)
    old = outdated(bundle, remote, REPLACED)
    if not new and not old:
        # The commit that the card names is still good if all of this was in it.
        named = pinned_commit(remote_card) if remote_card else None
        whole = named if named and is_equal_at(repository, named, bundle) else head
        new = changed({CARD: publication.card(repository.id, whole)}, remote)
        if not new:
            print("Nothing to do: the repository has all of it already.", file=sys.stderr)
            return page_of(repository, branch)
        pushed = repository.commit(
            new, parent=head, revision=branch, message="Write the model card", create_pr=settings.create_pr
        )
        return pushed.pr_url or page_of(repository, branch)
    pushed = repository.commit(
        new | {CARD: publication.card(repository.id, branch)},
        deletions=old,
        parent=head,
        revision=branch,
        message=settings.commit_message,
        create_pr=settings.create_pr,
    )
    if publication.kept_card is None:
        try:
            repository.commit(
                {CARD: publication.card(repository.id, pushed.oid)},
                parent=pushed.oid,
                revision=pushed.pr_revision or branch,
                message=f"The model card names the commit {pushed.oid[:7]}",
                create_pr=False,
            )
        except HubError as error:
            # All of it is there and loads; only the card names the branch instead of the commit.
            print(f"The model is pushed, but its card does not name the commit yet. {error}", file=sys.stderr)
    return pushed.pr_url or page_of(repository, branch)


def page_of(repository: "Repository", branch: str) -> str:
    """Return the address of a repository's branch."""
    return repository.url if branch == "main" else f"{repository.url}/tree/{quote(branch, safe='')}"
