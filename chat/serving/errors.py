"""Errors in the protocol's shape, whatever raised them."""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .protocol import REFUSALS, ErrorBody, ErrorResponse

CODES = {
    400: "invalid_json",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
}
"""The code of an error that has none of its own."""


class ApiError(Exception):
    """A request that gets no reply, and why."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> ErrorResponse:
        if self.status >= 500:
            kind = "server_error"
        else:
            kind = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        code = self.code or CODES.get(self.status)
        return ErrorResponse(error=ErrorBody(message=str(self), type=kind, param=self.param, code=code))

    def response(self) -> Response:
        headers = dict(self.headers or {})
        return Response(self.body().model_dump_json(), self.status, headers, media_type="application/json")


def internal_error() -> ApiError:
    """What a client gets to know of our own fault."""
    return ApiError(500, "The server could not reply; its log says why.", code="internal_error")


def of_validation(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first problem of a body that is no valid request."""
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it cannot be parsed")
        return ApiError(400, f"The body must be JSON, but {reason}.", code="invalid_json")
    # The first step is "body"; a union's steps are those of its members, which no client knows.
    path = [step for step in first["loc"][1:] if isinstance(step, int) or step.isidentifier()]
    if not path:
        return ApiError(
            400, "The body must be a JSON object, with Content-Type: application/json.", code="invalid_json"
        )
    known = next((step for step in reversed(path) if step in REFUSALS), None)
    if known is not None and first["type"] != "missing":
        path = path[: path.index(known) + 1]
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    if first["type"] == "missing":
        return ApiError(400, f"{param} is required.", param=param, code="missing_required_parameter")
    if known is not None:
        return ApiError(400, f"{param} {REFUSALS[known]}.", param=param, code="unsupported_value")
    # Without what a client cannot know of how the body is checked.
    rule = re.sub(r"^(Input|List) |( after validation|, unable to).*", "", first["msg"])
    return ApiError(400, f"{param} {rule}, but it is {shortened(first['input'])}.", param=param, code="invalid_value")


def shortened(value: Any) -> str:
    """A value as JSON, at most a line of it."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def install(app: FastAPI) -> None:
    """Give all of an app's errors the protocol's shape."""

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return of_validation(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        message = {
            404: f"There is no {request.url.path} here, but there are {routes_of(app)}.",
            405: f"{request.url.path} cannot be asked by {request.method}.",
        }.get(error.status_code, error.detail or HTTPStatus(error.status_code).phrase)
        return ApiError(error.status_code, message, headers=error.headers).response()


def routes_of(app: FastAPI) -> str:
    """What can be asked, in words."""
    return ", ".join(
        f"{' or '.join(sorted(route.methods))} {route.path_format}"
        for route in app.routes
        if isinstance(route, APIRoute) and route.methods
    )
