"""The API and the page: HTTP over :class:`~.service.Service`. ``/docs`` documents it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from spnet_d2.errors import UserError, one_line

from . import schemas
from .audit import AuditLog
from .case_export import export_case
from .cases import Cases, NoCaseError
from .jobs import FootageError, Jobs
from .model_queue import BusyError
from .security import Guard
from .service import NotFoundError, Service
from .uploads import MAX_BYTES, NoUploadError

STATIC = Path(__file__).parent / "static"
_JPEG = "image/jpeg"
_CASES: list[str | Enum] = ["cases"]
_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {_JPEG: {}}, "description": "JPEG"},
    404: {"model": schemas.Problem},
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": schemas.Problem} for code in (400, 401, 403, 404, 413, 421, 422, 503)
}
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BusyError, 503),
    (NotFoundError, 404),
    (NoUploadError, 404),
    (NoCaseError, 404),
    (UserError, 400),
    (OSError, 503),
)
Person = Annotated[int, Query(ge=0, lt=2**63)]
Frame = Annotated[int, Query(ge=0, lt=2**53)]
Name = Annotated[str, Query(min_length=1, max_length=1000)]


class TooLargeError(UserError, ValueError):
    """A request's body is larger than allowed."""


def create_app(
    service: Service,
    jobs: Jobs | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
    user_header: str | None = None,
) -> FastAPI:
    """
    The application.

    Args:
        service: over the gallery; closed with the application.
        jobs: for adding footage; None: that is off.
        token: that requests must carry; None: none.
        hosts: names the server answers to; None: any.
        user_header: a header that a proxy sets to the user's name, for the audit log.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if jobs is not None:
            jobs.close()
        service.close()

    app = FastAPI(
        title="SPNet-D2 gallery",
        description="Find a person in a gallery of cameras and archives.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_PROBLEMS,
    )
    app.add_middleware(Guard, token=token, hosts=hosts)
    _handle_errors(app)
    audit = AuditLog(service.home.path)
    cases = Cases(service.home.path / "cases")

    def who(request: Request) -> str:
        named = request.headers.get(user_header) if user_header else None
        return named or (request.client.host if request.client else "unknown")

    user = Depends(who)
    _add_pages(app)
    _add_gallery(app, service, audit, user)
    _add_uploads(app, service)
    _add_cases(app, cases, audit, user)
    _add_queries(app, service, cases)
    _add_sightings(app, service, cases)
    _add_case_files(app, cases, audit, user)
    _add_footage(app, service, jobs, audit, user)

    @app.get("/api/audit", response_model=list[schemas.Entry], tags=["audit"])
    def latest_entries(limit: Annotated[int, Query(ge=1, le=1000)] = 100):
        """The newest lines of the audit log, newest first."""
        return audit.latest(limit)

    return app


def _handle_errors(app: FastAPI) -> None:
    """Errors of the user's are JSON with one sentence; others a plain 500."""

    def handler(status: int) -> Callable:
        def handle(_: Request, error: Exception) -> JSONResponse:
            headers = {"retry-after": "2"} if status == 503 else None
            return JSONResponse({"detail": one_line(error)}, status, headers)

        return handle

    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(TooLargeError, handler(413))
    for kind, status in _STATUS:
        app.add_exception_handler(kind, handler(status))


async def _invalid(_: Request, error: Any) -> JSONResponse:
    """What does not fit the documented types: where, what was found, in one sentence."""
    found = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"][1:]) or "body"
        message = str(problem["msg"]).removeprefix("Value error, ")
        found.append(f"{place}: {message[0].lower()}{message[1:]}")
    return JSONResponse({"detail": " ".join(f"{'; '.join(found)}.".split())}, 422)


def _add_pages(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    try:
        swagger = Path(str(files("fastapi_offline") / "static"))
    except ModuleNotFoundError:
        return
    app.mount("/swagger", StaticFiles(directory=swagger), name="swagger")

    @app.get("/docs", include_in_schema=False)
    def documentation() -> HTMLResponse:
        text = (STATIC / "docs.html").read_text(encoding="utf-8")
        # Swagger's own styles are written into the page.
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
        )
        return HTMLResponse(text, headers={"content-security-policy": policy})


def _add_gallery(app: FastAPI, service: Service, audit: AuditLog, user: Any) -> None:
    @app.get("/api/gallery", response_model=schemas.GalleryInfo, tags=["gallery"])
    def gallery():
        """What is in the gallery."""
        return service.info()

    @app.post("/api/search", response_model=schemas.SearchResponse, tags=["gallery"])
    def search(request: schemas.SearchRequest, who: str = user):
        """Find a person; a query by somebody of the gallery needs no model."""
        # Pages after the first are the same search.
        if request.offset == 0:
            audit.write(who, "search", **request.model_dump(mode="json", exclude_defaults=True))
        return service.search(request)

    @app.get("/api/scenes", response_model=schemas.Scenes, tags=["scenes"])
    def scenes(
        camera: Annotated[str | None, Query(max_length=1000)] = None,
        since: datetime | None = None,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 40,
    ):
        """Frames with people, by time; ``since`` needs a time zone."""
        if since is not None and since.tzinfo is None:
            raise UserError("since has no time zone: write it as in 2026-05-01T08:00:00Z.")
        found, more = service.scenes.listed(camera or None, since, offset, limit)
        sources = service.home.sources()
        listed = [
            schemas.Scene(
                source=e.source,
                camera=e.camera,
                frame=e.frame,
                time=e.when,
                position=sources[e.source].position(e.frame),
                people=len(e.boxes),
            )
            for e in found
        ]
        return schemas.Scenes(scenes=listed, more=more)

    @app.get("/api/scene", response_model=schemas.SceneView, tags=["scenes"])
    def scene(
        source: Name,
        frame: Frame,
        offset: Annotated[float, Query(ge=-3600, le=3600, allow_inf_nan=False)] = 0.0,
    ):
        """A frame, or the one nearest to ``offset`` seconds from it, with its people."""
        return service.scene(source, frame, offset)

    @app.get("/api/scene/image", response_class=Response, responses=_IMAGE, tags=["scenes"])
    def scene_image(
        source: Name, frame: Frame, box: Annotated[str | None, Query(max_length=100)] = None
    ):
        """The image of a frame; with ``box`` x,y,w,h a crop of it."""
        return _jpeg(service.scene_jpeg(source, frame, None if box is None else _box(box)))

    @app.get("/api/people/{person}", response_model=schemas.Person, tags=["gallery"])
    def person(person: int):
        """A row of the gallery."""
        return service.person(_row(person))

    @app.get(
        "/api/people/{person}/thumbnail",
        response_class=Response,
        responses=_IMAGE,
        tags=["gallery"],
    )
    def thumbnail(person: int):
        """Their crop."""
        return _jpeg(service.thumbnail(_row(person)))


def _add_uploads(app: FastAPI, service: Service) -> None:
    body = {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    }

    @app.post(
        "/api/uploads",
        response_model=schemas.UploadView,
        status_code=201,
        tags=["uploads"],
        openapi_extra={"requestBody": body},
    )
    async def upload(request: Request):
        """A picture to search with: the body is its bytes. It is kept an hour, in memory."""
        data = await _limited_body(request, MAX_BYTES)
        return await asyncio.to_thread(service.upload, data)


def _add_cases(app: FastAPI, cases: Cases, audit: AuditLog, user: Any) -> None:
    @app.get("/api/cases", response_model=list[schemas.CaseSummary], tags=["cases"])
    def all_cases():
        """Newest first."""
        return cases.all()

    @app.post("/api/cases", status_code=201, response_model=schemas.Case, tags=_CASES)
    def new_case(new: schemas.NewCase, who: str = user):
        """An empty case."""
        made = cases.create(new.name)
        audit.write(who, "new case", case=made.id)
        return made

    @app.get("/api/cases/{case_id}", response_model=schemas.Case, tags=_CASES)
    def get_case(case_id: str):
        """All of a case."""
        return cases.get(case_id)

    @app.patch("/api/cases/{case_id}", response_model=schemas.Case, tags=_CASES)
    def change_case(case_id: str, change: schemas.CaseChange):
        """Another name, other notes."""
        return cases.change(case_id, change.name, change.notes)

    @app.delete("/api/cases/{case_id}", status_code=204, tags=["cases"])
    def delete_case(case_id: str, who: str = user):
        """Delete a case with its pictures."""
        cases.get(case_id)
        audit.write(who, "delete case", case=case_id)
        cases.delete(case_id)


def _add_queries(app: FastAPI, service: Service, cases: Cases) -> None:
    @app.post(
        "/api/cases/{case_id}/queries", status_code=201, response_model=schemas.Case, tags=["cases"]
    )
    def add_query(case_id: str, example: schemas.Example):
        """Keep what was searched for, with a crop, also of an upload."""
        cases.get(case_id)
        query = schemas.CaseQuery(
            number=0,
            example=None if example.upload else example,
            label="upload" if example.upload else "from the gallery",
            picture=None,
        )
        return cases.add_query(case_id, query, service.crop_of(example))

    @app.delete(
        "/api/cases/{case_id}/queries/{number}", response_model=schemas.Case, tags=["cases"]
    )
    def remove_query(case_id: str, number: int):
        """Forget a query and its crop."""
        return cases.remove_query(case_id, number)


def _add_sightings(app: FastAPI, service: Service, cases: Cases) -> None:
    @app.put("/api/cases/{case_id}/sightings/{person}", response_model=schemas.Case, tags=_CASES)
    def set_sighting(case_id: str, person: int, change: schemas.SightingChange):
        """Decide on a hit; the case keeps its own copy of the crop and of what is known."""
        kept = cases.sighting(case_id, person)
        if kept is not None:
            # The gallery may have let go of the row meanwhile.
            return cases.set_sighting(case_id, kept.model_copy(update=change.model_dump()), None)
        row = service.person(_row(person))
        known = row.model_dump(include={"source", "camera", "frame", "time", "position", "box"})
        sighting = schemas.Sighting(person=person, picture=None, **known, **change.model_dump())
        return cases.set_sighting(
            case_id, sighting, service.crop_of(schemas.Example(person=person))
        )

    @app.delete(
        "/api/cases/{case_id}/sightings/{person}", response_model=schemas.Case, tags=["cases"]
    )
    def remove_sighting(case_id: str, person: int):
        """Take a decision back."""
        return cases.remove_sighting(case_id, person)


def _add_case_files(app: FastAPI, cases: Cases, audit: AuditLog, user: Any) -> None:
    @app.get(
        "/api/cases/{case_id}/pictures/{name}",
        response_class=Response,
        responses=_IMAGE,
        tags=["cases"],
    )
    def case_picture(case_id: str, name: str):
        """A crop of a case."""
        return _jpeg(cases.picture(case_id, name))

    @app.post(
        "/api/cases/{case_id}/export",
        response_class=Response,
        responses={200: {"content": {"application/zip": {}}, "description": "ZIP"}},
        tags=["cases"],
    )
    def export(case_id: str, who: str = user):
        """The case as a ZIP: JSON, CSV, crops, and a page that needs no network."""
        cases.get(case_id)
        audit.write(who, "export case", case=case_id)
        when = datetime.now(timezone.utc).isoformat(sep=" ", timespec="seconds")
        data = export_case(cases, case_id, f"{when} by {who}")
        headers = {"content-disposition": 'attachment; filename="case.zip"'}
        return Response(data, media_type="application/zip", headers=headers)


def _add_footage(
    app: FastAPI, service: Service, jobs: Jobs | None, audit: AuditLog, user: Any
) -> None:
    def allowed() -> Jobs:
        if jobs is None:
            raise FootageError(
                "Changing sources is off: start the server with --footage FOLDER to add footage "
                "from it, or to delete sources."
            )
        return jobs

    @app.get("/api/sources", response_model=list[schemas.SourceView], tags=["footage"])
    def sources():
        """Where the gallery's people come from."""
        return service.sources()

    @app.post("/api/sources", response_model=schemas.Job, status_code=202, tags=["footage"])
    def add_source(new: schemas.NewSource, who: str = user):
        """Index a video or folder of the server's footage."""
        job = allowed().add(new)
        audit.write(who, "add source", source=job.source)
        return job

    @app.delete("/api/sources", status_code=204, tags=["footage"])
    def delete_source(name: Name, who: str = user):
        """Delete everything that came of a source; the footage stays."""
        allowed()
        audit.write(who, "delete source", source=name)
        service.delete_source(name)

    @app.get("/api/jobs", response_model=list[schemas.Job], tags=["footage"])
    def all_jobs():
        """Footage that is or was being indexed, newest first."""
        return [] if jobs is None else jobs.all()


async def _limited_body(request: Request, most: int) -> bytes:
    """The body, refused as soon as it is too large, whatever its header says."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise TooLargeError(f"The picture has more than {most // 1_000_000} MB.")
    return bytes(data)


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type=_JPEG, headers={"cache-control": "private, max-age=300"})


def _row(person: int) -> int:
    if not 0 <= person < 2**63:
        raise NotFoundError(f"The gallery has no person {person}.")
    return person


def _box(text: str) -> list[float]:
    try:
        box = [float(part) for part in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not all(abs(value) <= 1e6 for value in box):
        raise UserError(f"box: expected four numbers x,y,w,h, found {text!r}.")
    return box
