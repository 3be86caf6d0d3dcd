"""Answer the requests of the page: its files, and the slices of finished jobs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gcis_runtime.pictures.slices import image_png, labels_png
from gcis_runtime.pictures.view import PLANES
from gcis_runtime.serve.http.answers import PRIVATE, json_response
from gcis_runtime.serve.http.routes import answering
from gcis_runtime.serve.page.cases import LoadedCase, LoadedCases, nifti_bytes
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.service import JobService

ASSETS = Path(__file__).parent / "assets"
NIIVUE = "niivue/niivue.umd.js"
_TYPES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    NIIVUE: "text/javascript; charset=utf-8",
    "niivue/LICENSE.txt": "text/plain; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_AXES = dict(PLANES)

_T = TypeVar("_T")


def page_routes() -> list[Route]:
    """Return the routes of the page; `make_app` places them before those of the API.

    The files of the page are public. Everything about jobs is below `/v1/`, which the token protects.
    """
    page = _Page()
    job = "/v1/jobs/{job}"
    return [
        Route("/", answering(page.page), methods=["GET"]),
        Route("/assets/{name:path}", answering(page.asset), methods=["GET"]),
        Route("/v1/page", answering(page.features), methods=["GET"]),
        Route(f"{job}/view", answering(page.view), methods=["GET"]),
        Route(f"{job}/image.nii.gz", answering(page.image), methods=["GET"]),
        Route(f"{job}/slices/{{plane}}/{{index}}/{{kind}}", answering(page.slice), methods=["GET"]),
    ]


class _Page:
    """The handlers of the page."""

    def __init__(self) -> None:
        self._cases = LoadedCases()

    async def page(self, _request: Request) -> Response:
        """Return the page."""
        return await _file("page.html")

    async def asset(self, request: Request) -> Response:
        """Return a file of the page."""
        return await _file(request.path_params["name"])

    async def features(self, _request: Request) -> Response:
        """Return whether NiiVue is installed, and whether jobs can write pages."""
        report = importlib.util.find_spec("jinja2") is not None
        return json_response({"niivue": (ASSETS / NIIVUE).is_file(), "report": report})

    async def view(self, request: Request) -> Response:
        """Describe a job's grid and structures."""
        case = await self._case(request)
        return json_response(await _threaded(case.describe))

    async def image(self, request: Request) -> Response:
        """Return the image of a job as NIfTI."""
        data = await to_thread.run_sync(nifti_bytes, request.app.state.service, await self._case(request))
        return Response(data, media_type="application/gzip", headers=PRIVATE)

    async def slice(self, request: Request) -> Response:
        """Return a plane as PNG: `image.png?low=HU&high=HU`, or `labels.png`."""
        case = await self._case(request)
        axis, index = _plane(request, case)
        if request.path_params["kind"] == "labels.png":
            data = await _threaded(partial(labels_png, case.view, axis=axis, index=index))
        elif request.path_params["kind"] == "image.png":
            window = _window(request)
            data = await _threaded(partial(image_png, case.view, axis=axis, index=index, window=window))
        else:
            raise ServeError("there is no such slice", status=404, expected="image.png or labels.png")
        return Response(data, media_type="image/png", headers=PRIVATE)

    async def _case(self, request: Request) -> LoadedCase:
        service: JobService = request.app.state.service
        return await to_thread.run_sync(self._cases.get, service, request.path_params["job"])


async def _threaded(work: Callable[[], _T]) -> _T:
    return await to_thread.run_sync(work)


async def _file(name: str) -> Response:
    path = ASSETS / name
    if name not in _TYPES or not path.is_file():
        raise ServeError("the page has no such file", status=404, received=repr(name[:80]))
    return Response(await _threaded(path.read_bytes), media_type=_TYPES[name], headers=_HEADERS)


def _plane(request: Request, case: LoadedCase) -> tuple[int, int]:
    """Return axis and index of a requested plane.

    Raises:
        ServeError: The image has no such plane.
    """
    axis, text = _AXES.get(request.path_params["plane"]), str(request.path_params["index"])
    index = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if axis is None or not 0 <= index < case.view.image.shape[axis]:
        raise ServeError(
            "the image has no such plane",
            status=404,
            received=f"{request.path_params['plane'][:20]!r}, {text[:20]}",
            expected=", ".join(f"{name} 0 to {case.view.image.shape[a] - 1}" for name, a in PLANES),
        )
    return axis, index


def _window(request: Request) -> tuple[float, float]:
    """Return the requested intensity window in HU.

    Raises:
        ServeError: It is no window.
    """
    try:
        low, high = (float(request.query_params[name]) for name in ("low", "high"))
    except (KeyError, ValueError):
        low, high = 0.0, 0.0
    if not -1e5 <= low < high <= 1e5:
        raise ServeError(
            "the intensity window is invalid", status=422, received=str(request.query_params)[:80],
            expected="low=HU&high=HU with low below high",
        )  # fmt: skip
    return low, high
