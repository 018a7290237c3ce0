"""Errors of other libraries as a sentence: which file, what is wrong, what to do."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from chatformer.configuration.declaring import did_you_mean

from .names import CONFIG_FILE


class StorageError(ValueError):
    """A file or folder that cannot be used: the message names it, what was expected of it, and what was found."""


def first_line(error: BaseException) -> str:
    """The error's own words, without the lines of advice that libraries add."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def counted(number: int, singular: str) -> str:
    """So many of something: "1 line", "1,200 lines", "2 replies"."""
    plural = f"{singular[:-1]}ies" if singular.endswith("y") else f"{singular}s"
    return f"{number:,} {singular if number == 1 else plural}"


@contextlib.contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turn any error of a broken file into a `StorageError` that begins with `problem`."""
    try:
        yield
    except (StorageError, KeyboardInterrupt, SystemExit):
        raise
    # Broken files raise all kinds of errors, and a panic of the tokenizers library is not even an `Exception`.
    except BaseException as error:
        # A KeyError consists of the missing key alone.
        missing = "there is no " if isinstance(error, KeyError) else ""
        raise StorageError(f"{problem}: {missing}{first_line(error)}") from error


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def no_model(error: BaseException, name: str) -> str:
    """That neither a folder nor the Hub has a model `name`, and the folders that may have been meant."""
    # Here, since most readers of this file never ask the Hub.
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, HFValidationError):
        on_the_hub = "and no model on the Hub can be called so."
    else:
        reason = hub_reason(error, name)
        on_the_hub = f"and the Hub gave no model {name}: {reason}{'' if reason.endswith('.') else '.'}"
    return f"There is no folder {name}, {on_the_hub}{models_beside(name)}"


def models_beside(name: str) -> str:
    """A sentence on the nearest of the models beside a folder that there is not, or on some of them, or nothing."""
    beside, models = Path(name).parent, []
    # A folder that may not be read has no models to name.
    with contextlib.suppress(OSError):
        models = sorted(folder.name for folder in beside.iterdir() if os.path.isfile(folder / CONFIG_FILE))
    if nearest := did_you_mean(Path(name).name, models, shown_as=f"{beside}/{{}}"):
        return nearest.replace(" ./", " ")
    return f" {beside} has {first_few(models)}." if models and beside.name else ""


def hub_reason(error: BaseException, name: str) -> str:
    """Why the Hub gave no model `name`: what to do if it refused access, or the error's own words."""
    from huggingface_hub import constants

    return refusal_by(error, f"{constants.ENDPOINT}/{name}") or first_line(error)


def refusal_by(error: BaseException, url: str) -> str | None:
    """What to do if the Hub refused access or limits requests; None for other errors."""
    # Here, since most readers of this file never ask the Hub.
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    from huggingface_hub.utils import parse_ratelimit_headers

    answer = next((cause for cause in chain_of(error) if isinstance(cause, HfHubHTTPError)), None)
    if isinstance(answer, GatedRepoError):
        return (
            f"{url} is gated: its authors must let you in first. Log in with `hf auth login`, ask for access on that "
            "page, and try again once it is granted."
        )
    if isinstance(answer, RepositoryNotFoundError):
        return f"{url} does not exist, or is private: log in with an account that may read it, by `hf auth login`."
    if answer is not None and answer.response is not None and answer.response.status_code == 429:
        limit = parse_ratelimit_headers(answer.response.headers)
        when = f"in {limit.reset_in_seconds} seconds" if limit else "in a few minutes"
        return f"The Hub has had too many requests from you or your network (429): try again {when}."
    return None
