"""The routes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from chatformer.chat.chatbot import Chatbot
from chatformer.configuration.replies import ServeSettings

from . import errors
from .gate import Identified, KeyRequired, SizeLimited
from .protocol import ChatCompletion, ChatRequest, ErrorResponse, Health, Model, ModelList
from .service import Service

Result = TypeVar("Result")


class EventStream(StreamingResponse):
    """Server-sent events, and what is to be done when they have ended or the client has left."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]):
        super().__init__(events, headers={"Cache-Control": "no-cache"})
        self.on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the iterator: it never begins if the client leaves before.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.on_end()


async def unless_disconnected(work: Awaitable[Result], request: Request) -> Result | None:
    """The result of the work, or None as soon as the client has left."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(disconnected())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()


def create_app(chatbot: Chatbot, settings: ServeSettings) -> FastAPI:
    """The API of a chatbot."""
    service = Service(chatbot, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batches.close)

    app = FastAPI(
        title="Chatformer",
        summary="Chat completions as in OpenAI's protocol.",
        lifespan=lifespan,
        redirect_slashes=False,
        # Their pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    errors.install(app)
    app.add_middleware(SizeLimited, max_bytes=settings.max_body_bytes)
    if settings.api_key:
        app.add_middleware(KeyRequired, key=settings.api_key)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Identified, on_answer=service.count)
    failures: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 401, 404, 413, 429, 500)
    }

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=failures)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        began = time.perf_counter()
        completion = await service.submitted(body)
        if body.stream:
            has_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            events = service.events(completion, has_usage, began)
            return EventStream(events, lambda: service.close(completion, began))
        try:
            answer = await unless_disconnected(service.whole(completion, modalities=body.modalities or ()), request)
        finally:
            service.close(completion, began)
        if answer is None:
            # Nobody reads it; the status is what proxies log for a client that has left.
            return Response(status_code=499)
        # Not by FastAPI, which would validate it once more.
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/v1/models", responses={401: failures[401]})
    async def list_models() -> ModelList:
        return ModelList(data=[service.model])

    @app.get("/v1/models/{model:path}", responses={401: failures[401], 404: failures[404]})
    async def retrieve_model(model: str) -> Model:
        return service.named(model)

    @app.get("/health")
    async def health() -> Health:
        return Health()

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
