"""`chatformer push`: a model's folder becomes a repository on the Hub."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import tyro

from .settings import PushSettings

if TYPE_CHECKING:
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


def push(settings: PushSettings) -> str:
    """
    Publish a model's folder; return the URL of what was pushed.

    Files and card go up in one commit, so that no reader ever finds half of them. Its hash is known only then, so a
    second commit puts it into the card, which until then tells to load the branch. Raises a `HubError` where it cannot
    be done.
    """
    import transformers

    from .bundle import CARD, REPLACED, gather, size_of
    from .card import (
        Records,
        is_ours,
        languages_of,
        license_of,
        own_card,
        pinned_commit,
        sample_conversations,
        write_card,
    )
    from .errors import HubError
    from .folders import whole_or_nothing
    from .repositories import Repository, changed, check_name, is_equal_at, outdated

    transformers.utils.logging.disable_progress_bar()
    if settings.create_pr and settings.revision is not None:
        raise HubError("--create-pr proposes a change of main; it does not go with --revision.")
    check_name(settings.repo)
    bundle = gather(settings.model)
    kept_card = None if settings.replace_card else own_card(settings.model)
    records = Records.read(Path(settings.model))
    languages = settings.language or languages_of(records)
    license = settings.license or license_of(records)
    # Also where the card is kept: what cannot be loaded and does not answer is not pushed.
    samples = sample_conversations(settings.model, records, languages)
    branch = settings.revision or "main"

    def card(repo_id: str, revision: str) -> bytes:
        return kept_card or write_card(
            records, samples, repo_id=repo_id, revision=revision, languages=languages, license=license
        )

    if settings.dry_run or settings.output_dir is not None:
        bundle[CARD] = card(settings.repo, branch)
        if settings.output_dir is not None:
            with whole_or_nothing(settings.output_dir) as folder:
                for name, content in bundle.items():
                    if isinstance(content, Path):
                        shutil.copyfile(content, folder / name)
                    else:
                        (folder / name).write_bytes(content)
        for name, content in sorted(bundle.items()):
            print(f"{size_of(content):>12,}  {name}")
        if not languages and kept_card is None:
            print("The card names no language: say it with --language.", file=sys.stderr)
        if license is None and kept_card is None:
            print("The card names no licence: say it with --license.", file=sys.stderr)
        where = f"Written to {settings.output_dir}" if settings.output_dir else f"Would go to {settings.repo}"
        return f"{where}: {sum(map(size_of, bundle.values())):,} bytes. Nothing was pushed."

    repository = Repository(settings.repo)
    repository.prepare(private=settings.private, revision=branch)
    head, remote = repository.files(branch)
    remote_card = repository.read(CARD, head) if CARD in remote else None
    if remote_card is not None and not is_ours(remote_card) and kept_card is None and not settings.replace_card:
        kept_card = remote_card
        print("The card on the Hub was edited there, and stays; --replace-card writes it anew.", file=sys.stderr)
    new = changed(bundle, remote)
    old = outdated(bundle, remote, REPLACED)
    if not new and not old:
        # The commit that the card names is still good if all of this was in it.
        named = pinned_commit(remote_card) if remote_card else None
        whole = named if named and is_equal_at(repository, named, bundle) else head
        new = changed({CARD: card(repository.id, whole)}, remote)
        if not new:
            print("Nothing to do: the repository has all of it already.", file=sys.stderr)
            return page_of(repository, branch)
        pushed = repository.commit(
            new, parent=head, revision=branch, message="Write the model card", create_pr=settings.create_pr
        )
        return pushed.pr_url or page_of(repository, branch)
    pushed = repository.commit(
        new | {CARD: card(repository.id, branch)},
        deletions=old,
        parent=head,
        revision=branch,
        message=settings.commit_message,
        create_pr=settings.create_pr,
    )
    if kept_card is None:
        try:
            repository.commit(
                {CARD: card(repository.id, pushed.oid)},
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
