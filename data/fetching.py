"""Where data comes from: a path, a URL or a dataset on the Hub; and why it is not available."""

import codecs
import difflib
import gzip
import hashlib
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from chatformer.configuration.declaring import is_url

from .messages import DataError

if TYPE_CHECKING:
    import datasets

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".ndjson", ".parquet")
_SIGNATURES = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the data: run `git lfs pull` in its folder"),
    (
        b"<!doctype html",
        "a web page, not the data: get the file that the page shows, often by its link Raw or Download",
    ),
    (b"<html", "a web page, not the data: get the file that the page shows, often by its link Raw or Download"),
    (b"<?xml", "XML, not the data: it may be the error that a server answered with; look into it"),
    (b"404: not found", "the answer of a server that did not find the file: check the address that it came from"),
    (b"%PDF-", "a PDF: save what it shows as CSV"),
    (b"\x89PNG", "a picture: pass a table that has a column with the names of pictures' files"),
    (b"\xff\xd8\xff", "a picture: pass a table that has a column with the names of pictures' files"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file, or one with a password: save it as .xlsx without a password"),
    (b"PAR1", "Parquet: let its name end in .parquet"),
    (b"PK\x03\x04", "a ZIP archive: unpack it, or let its name end in .xlsx if it is an Excel file"),
)
"""The first bytes of files that are often saved under a wrong name, in lower case or as they are, and what they are."""
_OWN_SIGNATURES = {".parquet": b"PAR1", ".xlsx": b"PK\x03\x04"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def suffix_of(file: str) -> str:
    path = urlparse(file).path if is_url(file) else file
    return Path(path.lower().removesuffix(".gz")).suffix


def is_hub_id(file: str) -> bool:
    # "folder/chats.csv" looks like a dataset's id too; a known ending or a folder of that name distinguishes them.
    return (
        _HUB_ID.fullmatch(file) is not None
        and not Path(file).exists()
        and not Path(file).parent.is_dir()
        and suffix_of(file) not in (*TABLE_SUFFIXES, ".txt")
    )


def load_from_hub(
    dataset_id: str, *, split: str, revision: str | None, streaming: bool
) -> "datasets.Dataset | datasets.IterableDataset":
    import datasets

    try:
        return datasets.load_dataset(dataset_id, split=split, revision=revision, streaming=streaming)
    # The client raises errors of many libraries, and all of them mean that the dataset is not available.
    except Exception as error:
        raise DataError(
            f"There is no file {dataset_id!r}, and the Hugging Face Hub gave no dataset {dataset_id!r} with "
            f"split {split!r} and revision {revision or 'main'!r}: {type(error).__name__}: {str(error).rstrip('.')}. "
            "Check the name, the split, the revision and the network, or download the data and pass its file."
        ) from error


def _download(url: str, *, sha256: str | None, again: bool = False) -> Path:
    import datasets

    # A file with a known checksum comes from the cache without asking the server, so it is available offline too.
    config = datasets.DownloadConfig(
        use_etag=sha256 is None, force_download=again, download_desc=f"Downloading {Path(urlparse(url).path).name}"
    )
    try:
        return Path(datasets.DownloadManager(download_config=config).download(url))
    # As above: errors of fsspec, of aiohttp, of the operating system.
    except Exception as error:
        # fsspec turns every error into "file not found"; the cause says what it was.
        cause = error.__cause__ or error
        raise DataError(
            f"{url} could not be downloaded: {type(cause).__name__}: {cause}. Check the address and the network, "
            "or download it elsewhere and pass the file."
        ) from error


def _check_sha256(file: str, path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != expected.strip().lower():
        raise DataError(
            f"{file} is not the file that was expected: its sha256 is {actual}, and {expected} was asked for. It was "
            "changed or is incomplete: get it again, or, if you trust this file, ask for the sha256 that it has."
        )


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())[:5]
        listed = f", such as {', '.join(inside)}" if inside else ""
        raise DataError(f"{path} is a directory. Pass one file in it{listed}.")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"There is no file {path}, nor a directory {path.parent}. Check the path.")
        nearest = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
        hint = f"Did you mean {path.parent / nearest[0]}?" if nearest else "Check the path."
        raise DataError(f"There is no file {path}. {hint}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Pass a file with at least one conversation.")


def _check_signature(file: str, path: Path) -> None:
    try:
        with path.open("rb") as stream:
            beginning = stream.read(1000)
    except OSError as error:
        raise _unreadable(file, error) from error
    beginning = beginning.removeprefix(codecs.BOM_UTF8).lstrip()
    for signature, kind in _SIGNATURES:
        if (
            signature in (beginning[: len(signature)], beginning[: len(signature)].lower())
            and _OWN_SIGNATURES.get(suffix_of(file)) != signature
        ):
            raise DataError(f"{file} is {kind}.")


def _unreadable(file: str, error: OSError) -> DataError:
    return DataError(f"{file} cannot be read ({error.strerror}). Check its permissions.")


def local_path(file: str, *, sha256: str | None) -> Path:
    """The path on this machine of a file or URL, downloaded and checked."""
    path = _fetched(file, sha256=sha256)
    _check_signature(file, path)
    return path


def _fetched(file: str, *, sha256: str | None) -> Path:
    if not file:
        raise DataError("The name of the data is empty. Pass a file, a URL or the id of a dataset on the Hub.")
    if not is_url(file):
        path = Path(file).expanduser()
        _check_file(path)
        if sha256 is not None:
            _check_sha256(file, path, sha256)
        return path
    path = _download(file, sha256=sha256)
    if sha256 is not None:
        try:
            _check_sha256(file, path, sha256)
        except DataError:
            # The cache may hold an older version.
            path = _download(file, sha256=sha256, again=True)
            _check_sha256(file, path, sha256)
    return path


def read_bytes(file: str, path: Path) -> bytes:
    try:
        data = path.read_bytes()
        # By its first bytes and not by its name: some servers decompress a .gz on the way.
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file} is a broken gzip file ({error}). Get it again or compress it again.") from error
    except OSError as error:
        raise _unreadable(file, error) from error
    if not data.strip():
        raise DataError(f"{file} is empty. Pass a file with at least one conversation.")
    return data
