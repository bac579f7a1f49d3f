"""Case folders: queries, decisions and notes, with their own copies of the crops.

A case outlives what it was made from: the gallery may forget people after some weeks, and a source
may be deleted. So each sighting is kept with its crop. One folder per case::

    cases/ID/case.json
    cases/ID/pictures/*.jpg
"""

import re
import secrets
import shutil
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock

from spnet_d2.errors import UserError
from spnet_d2.utils.atomic_io import atomic_path, write_text

from .schemas import Case, CaseQuery, CaseSummary, Sighting

_ID = re.compile(r"[A-Za-z0-9_-]{8,40}")
_PICTURE = re.compile(r"(query|person)-\d+\.jpg")
_FILE = "case.json"


class NoCaseError(UserError, LookupError):
    """A case, or a part of one, that is not there."""


class Cases:
    """
    The cases of one gallery.

    Args:
        folder: holds one folder per case; made when the first one is.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._lock = RLock()

    def create(self, name: str) -> Case:
        now = _now()
        case = Case(
            id=secrets.token_urlsafe(9),
            name=name,
            notes="",
            created=now,
            changed=now,
            queries=[],
            sightings=[],
        )
        with self._lock:
            self._write(case)
        return case

    def all(self) -> list[CaseSummary]:
        """Newest first."""
        with self._lock:
            files = self._folder.glob(f"*/{_FILE}")
            cases = [self._read(file) for file in files if _ID.fullmatch(file.parent.name)]
        cases.sort(key=lambda case: case.changed, reverse=True)
        return [
            CaseSummary(
                id=case.id,
                name=case.name,
                changed=case.changed,
                queries=len(case.queries),
                confirmed=sum(s.decision == "confirmed" for s in case.sightings),
                sightings=len(case.sightings),
            )
            for case in cases
        ]

    def get(self, case_id: str) -> Case:
        """
        Raises:
            NoCaseError: there is none.
        """
        return self._read(self._path(case_id) / _FILE)

    def change(self, case_id: str, name: str | None, notes: str | None) -> Case:
        """Another name, other notes; None: as they are."""
        changes = {"name": name, "notes": notes}
        return self._update(case_id, {k: v for k, v in changes.items() if v is not None})

    def add_query(self, case_id: str, query: CaseQuery, picture: bytes | None) -> Case:
        """Keep what was searched for; its number and picture's name are chosen here."""
        with self._lock:
            case = self.get(case_id)
            number = 1 + max((q.number for q in case.queries), default=0)
            name = self._keep(case_id, f"query-{number}.jpg", picture)
            kept = query.model_copy(update={"number": number, "picture": name})
            return self._update(case_id, {"queries": [*case.queries, kept]})

    def remove_query(self, case_id: str, number: int) -> Case:
        with self._lock:
            case = self.get(case_id)
            kept = [q for q in case.queries if q.number != number]
            if len(kept) == len(case.queries):
                raise NoCaseError(f"The case has no query {number}.")
            case = self._update(case_id, {"queries": kept})
            self._forget(case_id, f"query-{number}.jpg")
            return case

    def set_sighting(self, case_id: str, sighting: Sighting, picture: bytes | None) -> Case:
        """Add a sighting, or replace that of the same person's row, whose picture stays."""
        with self._lock:
            case = self.get(case_id)
            others = [s for s in case.sightings if s.person != sighting.person]
            name = self._keep(case_id, f"person-{sighting.person}.jpg", picture)
            kept = sighting.model_copy(update={"picture": name})
            return self._update(case_id, {"sightings": [*others, kept]})

    def sighting(self, case_id: str, person: int) -> Sighting | None:
        """What a case says of a row of the gallery."""
        return next((s for s in self.get(case_id).sightings if s.person == person), None)

    def remove_sighting(self, case_id: str, person: int) -> Case:
        with self._lock:
            case = self.get(case_id)
            kept = [s for s in case.sightings if s.person != person]
            if len(kept) == len(case.sightings):
                raise NoCaseError(f"The case has no sighting of row {person}.")
            case = self._update(case_id, {"sightings": kept})
            self._forget(case_id, f"person-{person}.jpg")
            return case

    def picture(self, case_id: str, name: str) -> bytes:
        """
        A crop of a case, JPEG.

        Raises:
            NoCaseError: no such case or picture; names of other files count as missing.
        """
        folder = self._path(case_id)
        if not _PICTURE.fullmatch(name):
            raise NoCaseError("The case has no such picture.")
        try:
            return (folder / "pictures" / name).read_bytes()
        except FileNotFoundError:
            raise NoCaseError("The case has no such picture.") from None

    def delete(self, case_id: str) -> None:
        with self._lock:
            self.get(case_id)
            shutil.rmtree(self._path(case_id))

    def _path(self, case_id: str) -> Path:
        if not _ID.fullmatch(case_id):
            raise NoCaseError("There is no such case.")
        return self._folder / case_id

    def _read(self, file: Path) -> Case:
        try:
            return Case.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            raise NoCaseError("There is no such case.") from None
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}); put back a copy of it.") from error

    def _update(self, case_id: str, changes: dict) -> Case:
        with self._lock:
            case = self.get(case_id).model_copy(update={**changes, "changed": _now()})
            self._write(case)
            return case

    def _write(self, case: Case) -> None:
        write_text(self._path(case.id) / _FILE, case.model_dump_json(indent=1))

    def _keep(self, case_id: str, name: str, picture: bytes | None) -> str | None:
        """Write a picture; without one, an earlier one of this name stays."""
        path = self._path(case_id) / "pictures" / name
        if picture is not None:
            with atomic_path(path) as part:
                part.write_bytes(picture)
        return name if path.is_file() else None

    def _forget(self, case_id: str, name: str) -> None:
        (self._path(case_id) / "pictures" / name).unlink(missing_ok=True)


def _now() -> datetime:
    return datetime.now(timezone.utc)
