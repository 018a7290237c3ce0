"""A load of clients that each ask again as soon as they have a reply, over connections that stay open."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PATH = "/v1/chat/completions"


@dataclass
class Figures:
    """What a load measured, in seconds; only answers after the warm-up count."""

    duration: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_texts: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_failures: int = 0

    @property
    def rate(self) -> float:
        """Requests answered in a second."""
        return len(self.latencies) / self.duration

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")


def request_bytes(body: dict[str, Any], port: int) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode() + str(len(content)).encode() + b"\r\n\r\n" + content


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes, float | None]:
    """Send a request; return the status, the body, and when the first text of a stream came."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split()[1])
    headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    if b"content-length" in headers:
        return status, await reader.readexactly(int(headers[b"content-length"])), None
    body, first_text = b"", None
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        part = (await reader.readexactly(size + 2))[:-2]
        if first_text is None and b'"content":"' in part and b'"content":""' not in part:
            first_text = time.perf_counter()
        body += part
    await reader.readexactly(2)
    return status, body, first_text


async def client(port: int, bodies: Sequence[dict[str, Any]], begin: float, end: float, figures: Figures) -> None:
    """Ask one question after the other until the time is over."""
    requests = [request_bytes(body, port) for body in bodies]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        for request, body in itertools.cycle(zip(requests, bodies, strict=True)):
            began = time.perf_counter()
            if began >= end:
                return
            status, content, first_text = await exchange(reader, writer, request)
            now = time.perf_counter()
            if not begin <= now <= end:
                continue
            if status != 200 or (body.get("stream") and not content.endswith(b"data: [DONE]\n\n")):
                figures.num_failures += 1
                continue
            figures.latencies.append(now - began)
            figures.num_tokens += body["max_tokens"]
            if first_text is not None:
                figures.first_texts.append(first_text - began)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def load(
    port: int, bodies: Sequence[dict[str, Any]], *, num_clients: int, warmup_seconds: float, seconds: float
) -> Figures:
    """Let clients ask for some seconds, each its own part of the questions."""
    figures = Figures(duration=seconds)
    begin = time.perf_counter() + warmup_seconds
    parts = [bodies[number::num_clients] for number in range(num_clients)]
    await asyncio.gather(*(client(port, part, begin, begin + seconds, figures) for part in parts))
    return figures
