"""Remove what is private to the author from files to be published: paths, credentials in URLs, access tokens."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from .errors import HubError

PATH = re.compile(r"/|~\w*/|\.\.?/|file:|[A-Za-z]:[\\/]|\\\\")
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
TEXT_ENDINGS = (".json", ".jsonl", ".yaml", ".py", ".jinja", ".md", ".txt")


def without_paths(value: Any) -> Any:
    """The structure with only the last part of each path."""
    if isinstance(value, Mapping):
        return {
            name: last_part(inner) if name == "output_dir" and inner else without_paths(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str):
        return public_name(value)
    return value


def public_name(text: str) -> str:
    """Strip what is private: keep a path's last part; drop a URL's credentials and query."""
    if text.lower().startswith(("http://", "https://")):
        url = urlsplit(text)
        return f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"
    # A relative path looks like a data set's id, unless it exists here or ends like a file.
    is_path = PATH.match(text) or ("/" in text and " " not in text and (os.path.exists(text) or Path(text).suffix))
    return last_part(text) if is_path else text


def last_part(path: str) -> str:
    return PureWindowsPath(path.rstrip("/\\")).name


def without_places(text: str, file: Path) -> str:
    """Remove paths into the author's home, the working directory and the model's folder from sentences."""
    folder = file.resolve().parent
    places = {str(place) for place in (Path.home(), Path.cwd(), folder, folder.parent)} - {"/"}
    for place in sorted(places, key=len, reverse=True):
        text = re.sub(rf"{re.escape(place)}/([^\s\"']*/)?", "", text)
    return text


def check_no_token(name: str, content: Path | bytes) -> None:
    """Raise a `HubError` if a text contains an access token."""
    if not name.endswith(TEXT_ENDINGS):
        return
    text = content if isinstance(content, bytes) else content.read_bytes()
    token = TOKEN.search(text)
    if token:
        line = text.count(b"\n", 0, token.start()) + 1
        raise HubError(f"{name} holds what looks like an access token in line {line}: remove it, and revoke it.")
