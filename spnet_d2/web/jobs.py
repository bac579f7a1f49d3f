"""Footage that is added from the page: one ``spnet-gallery index`` process at a time."""

import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Lock, Thread

from spnet_d2.errors import UserError

from . import schemas

# Of the index command's progress bar.
_PROGRESS = re.compile(rb"(\d+) people, (\d+) of (\d+) units")
_KEPT = 50


class FootageError(UserError, ValueError):
    """A path that can't be added from the page."""


@dataclass
class _Job:
    view: schemas.Job
    command: list[str]


class Jobs:
    """
    Args:
        gallery: folder of the gallery.
        roots: only what lies in these folders can be added.
        changed: called after each job.
    """

    def __init__(self, gallery: Path, roots: Sequence[Path], changed: Callable[[], None]):
        self._gallery = gallery
        self._roots = [root.resolve() for root in roots]
        self._changed = changed
        self._jobs: list[_Job] = []
        self._queue: Queue[_Job | None] = Queue()
        self._process: subprocess.Popen | None = None
        self._lock = Lock()
        self._thread = Thread(target=self._work, name="index", daemon=True)
        self._thread.start()

    def add(self, new: schemas.NewSource) -> schemas.Job:
        """
        Index a video or folder.

        Raises:
            FootageError: it is not there, or not in a folder that footage can be added from.
        """
        path = self._allowed(new.path)
        name = new.name or path.stem
        program = "import sys; from spnet_d2.cli.gallery import main; sys.exit(main())"
        command = [sys.executable, "-c", program]
        command += ["index", "--gallery", str(self._gallery), "--source", f"{name}={path}"]
        command += ["--fps", str(new.fps)]
        if new.camera:
            command += ["--camera", new.camera]
        if new.start is not None:
            command += ["--start", new.start.isoformat()]
        view = schemas.Job(
            id=secrets.token_hex(6), source=name, state="running", progress=None, message="waiting"
        )
        job = _Job(view, command)
        with self._lock:
            self._jobs = [*self._jobs, job][-_KEPT:]
        self._queue.put(job)
        return view

    def all(self) -> list[schemas.Job]:
        """Newest first."""
        with self._lock:
            return [job.view for job in reversed(self._jobs)]

    def close(self) -> None:
        """Stop the process that runs; what it finished stays in the gallery."""
        self._queue.put(None)
        with self._lock:
            process = self._process
        if process is not None:
            process.terminate()

    def _allowed(self, text: str) -> Path:
        if "\0" in text:
            raise FootageError("This is no path.")
        path = Path(text).expanduser()
        try:
            # Links lead where they lead: what counts is the place itself.
            found = path.resolve(strict=True)
        except (OSError, RuntimeError):
            found = None
        if found is None or not any(found.is_relative_to(root) for root in self._roots):
            # The same for both: whether a file exists elsewhere is nobody's business.
            raise FootageError(
                "Nothing can be added from this path: expected a video or a folder of images in "
                f"{', '.join(map(str, self._roots)) or 'a folder given by --footage'}."
            )
        return found

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                self._run(job)
            except Exception as error:  # the page says it; the next job still runs
                job.view = job.view.model_copy(update={"state": "failed", "message": str(error)})
            self._changed()

    def _run(self, job: _Job) -> None:
        process = subprocess.Popen(
            job.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        with self._lock:
            self._process = process
        last = b""
        assert process.stdout is not None
        for piece in _pieces(process.stdout):
            last = piece.strip() or last
            found = _PROGRESS.findall(piece)
            if found:
                people, done, units = map(int, found[-1])
                message = f"{people} people found"
                progress = done / units if units else None
                job.view = job.view.model_copy(update={"progress": progress, "message": message})
        failed = process.wait() != 0
        with self._lock:
            self._process = None
        message = last.decode(errors="replace").removeprefix("spnet-gallery: ")[-500:]
        state = "failed" if failed else "done"
        job.view = job.view.model_copy(update={"state": state, "progress": 1.0, "message": message})


def _pieces(stream):
    """Lines, also those that a progress bar ends with a carriage return."""
    rest = b""
    while chunk := stream.read1(4096):
        *lines, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from lines
    yield rest
