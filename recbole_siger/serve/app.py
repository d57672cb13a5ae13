"""Routes of the server. The service answers; this module reads requests and writes JSON."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the routes as objects.

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from recbole_siger import __version__
from recbole_siger.serve import schemas
from recbole_siger.serve.guard import INTERNAL_ERROR, Guard
from recbole_siger.serve.metrics import CONTENT_TYPE, Metrics
from recbole_siger.serve.pages import description_page, html_response, trial_page
from recbole_siger.serve.service import RefusedError, Service
from recbole_siger.serve.source import IMAGE_TYPES, read_image

__all__ = ["Server", "make_server"]

OPEN_PATHS = ("/", "/docs", "/openapi.json", "/health")
"""Paths that show nothing of the run and require no token."""

_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Failure, "description": text}
    for status, text in (
        (401, "The token is missing or wrong."),
        (422, "A value is missing, wrong or beyond a limit."),
        (503, "Too many requests at a time."),
    )
}


class Server:
    """The application and what it is made of.

    Attributes:
        guard: The ASGI application.
        api: The FastAPI application in it.
        service: The run and its answers.
        metrics: Counts of requests.
    """

    def __init__(self, service: Service, token: str | None) -> None:
        self.service, self.metrics, self.has_token = service, Metrics(), token is not None
        self._answering = ThreadPoolExecutor(service.params.threads, thread_name_prefix="answer")
        self._changing = ThreadPoolExecutor(1, thread_name_prefix="change")
        self.api = _make_api(self)
        paths = ["/", *("/" + path[1:].partition("/")[0] for path in self.api.openapi()["paths"])]
        self.guard = Guard(
            self.api, service.params, token, self.metrics, OPEN_PATHS, [*paths, "/docs", "/openapi.json"]
        )
        self._count_run()

    async def answer(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Compute an answer in one of the threads for answers."""
        call = lambda: function(*arguments, **options)  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._answering, call)

    async def change(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Change the run in the one thread for changes, while other requests are answered."""
        changed = await asyncio.get_running_loop().run_in_executor(self._changing, function, *arguments)
        self._count_run()
        return changed

    async def reload(self) -> dict[str, Any]:
        """Load the newest complete run, see :meth:`~recbole_siger.serve.service.Service.reload`."""
        report: dict[str, Any] = await self.change(self.service.reload)
        self.metrics.reloads.labels(report["status"]).inc()
        return report

    def close(self) -> None:
        """End the threads after their work."""
        self._answering.shutdown()
        self._changing.shutdown()

    def _count_run(self) -> None:
        self.metrics.new_items.set(self.service.loaded.recommender.n_added)
        self.metrics.loaded_at.set(self.service.loaded_at)


def make_server(service: Service, token: str | None = None) -> Server:
    """Return the server of a service.

    Args:
        service: The run and its answers.
        token: If given, every route but ``/``, ``/docs``, ``/openapi.json`` and ``/health`` requires
            ``Authorization: Bearer TOKEN``, and ``POST /reload`` is allowed.
    """
    return Server(service, token)


def _make_api(server: Server) -> FastAPI:
    api = FastAPI(
        title="recbole-siger serve",
        version=__version__,
        description="Recommendations of a finished run.",
        docs_url=None,
        redoc_url=None,
        responses=_FAILURES,
    )
    _add_handlers(api)
    _add_answers(api, server)
    _add_changes(api, server)
    _add_facts(api, server)
    _add_pages(api, server)
    return api


def _add_handlers(api: FastAPI) -> None:
    """Answer every failure with ``{"error": one line}``."""

    @api.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return JSONResponse({"error": error.message}, error.status)

    @api.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        text = {
            400: "body: cannot be read; write JSON in UTF-8 without deep nesting and without huge numbers",
            404: "no such route; see /docs",
            405: "this route has no such method; see /docs",
        }
        message = text.get(error.status_code, str(error.detail))
        return JSONResponse({"error": message}, error.status_code, headers=error.headers)

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": INTERNAL_ERROR}, 500)  # the guard logs the error

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": _validation_line(error)}, 422)


def _validation_line(error: RequestValidationError) -> str:
    """Return the first problem of a request: where, and what was expected."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"body: is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
    if first["type"] == "model_attributes_type" and first["loc"] == ("body",):
        return "body: expected a JSON object and the header `Content-Type: application/json`"
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "body"))
    more = len(error.errors()) - 1
    suffix = f" (and {more} more)" if more else ""
    return f"{place[:100] or 'body'}: {str(first['msg'])[:300]}{suffix}"


def _add_answers(api: FastAPI, server: Server) -> None:
    service = server.service

    async def recommend(query: Any, history: list[str], candidates: list[str] | None) -> Response:
        answer = await server.answer(
            service.recommend,
            query.user,
            query.k,
            history,
            candidates,
            exclude_seen=query.exclude_seen,
            details=query.details,
        )
        server.metrics.sources.labels(answer["source"]).inc()
        return JSONResponse(answer)

    @api.get("/recommend", response_model=schemas.Recommendations)
    async def get_recommendations(query: Annotated[schemas.RecommendQuery, Query()]) -> Response:
        """Recommend items to a user."""
        candidates = None if query.candidates is None else _split(query.candidates)
        return await recommend(query, _split(query.history), candidates)

    @api.post("/recommend", response_model=schemas.Recommendations)
    async def post_recommendations(body: schemas.RecommendBody) -> Response:
        """Recommend items to a user; for long lists, and for ids that contain commas."""
        return await recommend(body, body.history, body.candidates)

    @api.get("/similar", response_model=schemas.SimilarItems, responses={404: _FAILURES[422]})
    async def get_similar(query: Annotated[schemas.SimilarQuery, Query()]) -> Response:
        """Return the items that are most similar to an item."""
        return JSONResponse(await server.answer(service.similar, query.item, query.k, details=query.details))

    @api.get("/images/{item}", response_class=Response, responses={404: _FAILURES[422]})
    async def get_image(item: str) -> Response:
        """Return the picture of an item."""
        path = service.loaded.images.get(item)
        content = None if path is None else await server.answer(read_image, path)
        if path is None or content is None:
            raise RefusedError(404, f"item={item[:100]!r}: has no picture")
        return Response(content, media_type=IMAGE_TYPES[path.suffix.lower()])


def _add_changes(api: FastAPI, server: Server) -> None:
    service = server.service

    @api.post("/new-items", response_model=schemas.Added, responses={409: _FAILURES[422]})
    async def post_new_items(body: schemas.NewItems) -> Response:
        """Add new items by their features, in memory only."""
        return JSONResponse(await server.change(service.add_items, body.ids, body.features))

    @api.post("/reload", response_model=schemas.ReloadReport, responses={403: _FAILURES[422]})
    async def post_reload() -> Response:
        """Load the newest complete run; the run in memory stays if the newest run is damaged."""
        if not server.has_token:
            raise RefusedError(403, "/reload requires a server with a token; send SIGHUP to the process")
        await server.reload()
        report = service.facts()["last_reload"]
        return JSONResponse(report, 500 if report["status"] == "failed" else 200)


def _add_facts(api: FastAPI, server: Server) -> None:
    @api.get("/run", response_model=schemas.RunFacts)
    async def get_run() -> Response:
        """Return what is served: run, sizes, limits, examples of user ids."""
        return JSONResponse(server.service.facts())

    @api.get("/health", response_model=schemas.Health)
    async def get_health() -> Response:
        """Say that the server answers."""
        return JSONResponse({"status": "ok"})

    @api.get("/metrics", response_class=Response)
    async def get_metrics() -> Response:
        """Return counts and times of requests for Prometheus."""
        return Response(server.metrics.text(), media_type=CONTENT_TYPE)


def _add_pages(api: FastAPI, server: Server) -> None:
    @api.get("/", include_in_schema=False)
    async def get_page() -> Response:
        return html_response(trial_page())

    @api.get("/docs", include_in_schema=False)
    async def get_description() -> Response:
        return html_response(description_page(api.openapi()))


def _split(texts: list[str]) -> list[str]:
    """Return the ids of texts with ids between commas.

    >>> _split(["50,181", "", "7"])
    ['50', '181', '7']
    """
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]
