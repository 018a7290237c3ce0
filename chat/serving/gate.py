"""
What every request passes before the routes: its id, the key, the limit of its size.

Plain ASGI, since a middleware of functions would hold streamed answers back and cost each request a task.
"""

import asyncio
import hmac
import logging
import re
import uuid
from collections.abc import Callable

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, internal_error

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Identified:
    """Gives every answer an `x-request-id`, counts it, and turns what no route caught into an error 500."""

    def __init__(self, app: ASGIApp, on_answer: Callable[[Scope, int], None]):
        self.app = app
        self.on_answer = on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "").encode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}".encode()
        has_begun = False

        async def send_identified(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
                self.on_answer(scope, message["status"])
            await send(message)

        try:
            await self.app(scope, receive, send_identified)
        except asyncio.CancelledError:
            # The server stops, and its time of grace is over. An answer that has begun is seen to be incomplete.
            if not has_begun:
                headers = {"Retry-After": "1", "Connection": "close"}
                error = ApiError(
                    503, "The server is stopping. Try again in a moment.", code="stopping", headers=headers
                )
                await error.response()(scope, receive, send_identified)
        except Exception:
            logger.exception("Request %s failed", request_id.decode())
            if has_begun:
                # The connection is closed, so that the client sees that its answer is incomplete.
                raise
            await internal_error().response()(scope, receive, send_identified)


class KeyRequired:
    """Lets requests under `/v1` pass only with the key, if one is set."""

    def __init__(self, app: ASGIApp, key: str):
        self.app = app
        self.expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self.expected):
                error = ApiError(
                    401,
                    "This server needs its API key: send the header Authorization: Bearer KEY.",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SizeLimited:
    """Refuses bodies that are too large, before they are read to the end, however they are sent."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reason = f"The body must have at most {self.max_bytes} bytes. Send fewer or shorter messages."
        # uvicorn has checked that it is a number.
        if int(Headers(scope=scope).get("content-length", 0)) > self.max_bytes:
            await ApiError(413, reason, headers={"Connection": "close"}).response()(scope, receive, send)
            return
        num_bytes = 0

        async def receive_limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                # FastAPI passes this kind alone on unchanged while it reads a body.
                raise HTTPException(413, reason, headers={"Connection": "close"})
            return message

        await self.app(scope, receive_limited, send)
