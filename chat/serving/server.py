"""`chatformer serve`: from a command line to a running server."""

import dataclasses
import importlib
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatformer.chat.errors import ChatError
from chatformer.chat.loading import load_chatbot
from chatformer.configuration.replies import ServeSettings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

KEY_VARIABLE = "CHATFORMER_API_KEY"
PACKAGES = ("fastapi", "prometheus_client", "uvicorn")
IDLE_SECONDS = 75
"""
How long a connection without a request stays open: longer than clients and proxies keep theirs, most of them 5 to 60
seconds, for a request that is on its way while its connection is closed is lost.
"""


def serve(settings: ServeSettings) -> None:
    """Serve until the process is asked to stop."""
    check_packages(PACKAGES, command="serve", extra="serve")
    settings = with_key(settings)
    # Before the model is loaded: a port in use is an error now, not after seconds.
    listener = listening(settings.host, settings.port)
    chatbot = load_chatbot(settings, num_parallel=num_threads(settings))

    from .app import create_app

    host, port = listener.getsockname()[:2]
    if not settings.api_key and is_open_to_others(host):
        print(
            f"WARNING: the server listens at {host} WITHOUT A KEY: all who can reach this machine can use it. Set "
            f"{KEY_VARIABLE}, or leave out --host.",
            file=sys.stderr,
        )
    server = server_of(create_app(chatbot, settings), settings)
    shown = f"[{host}]" if ":" in host else host
    print(f"{settings.served_name} is served at http://{shown}:{port}/v1 (Ctrl-C stops).", flush=True)
    # uvicorn handles the signal, and afterwards raises it again for the handler before its own.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server.run(sockets=[listener])


def server_of(app: "FastAPI", settings: ServeSettings) -> "uvicorn.Server":
    """The server of an app, for a socket that listens already."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            # The figures at /metrics say more, and for less time.
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=settings.grace_seconds,
        )
    )


def check_packages(packages: Sequence[str], *, command: str, extra: str) -> None:
    """Raise a `ChatError` if a package of an extra is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ChatError(
                f"`chatformer {command}` needs the package {package}. Run: pip install 'chatformer[{extra}]'"
            ) from error


def is_open_to_others(host: str) -> bool:
    """True if other machines can reach this address of ours."""
    # A link-local address has its interface behind a %.
    return not ipaddress.ip_address(host.partition("%")[0]).is_loopback


def with_key(settings: ServeSettings) -> ServeSettings:
    """The settings with the key of the environment, unless the flag gives one."""
    if settings.api_key is not None:
        return settings
    return dataclasses.replace(settings, api_key=os.environ.get(KEY_VARIABLE) or None)


def num_threads(settings: ServeSettings) -> int:
    if settings.num_threads is not None:
        return settings.num_threads
    # The cores that this process may use, where the system says so.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raise a `ChatError` if none can."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ChatError(f"--host {host} --port {port} cannot be listened at ({reason}). Give another.") from error
