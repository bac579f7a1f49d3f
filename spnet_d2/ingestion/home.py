"""The folder of a gallery and of all that belongs to it.

::

    home.json       model, settings; what the rest was made with
    sources.json    names, places, cameras, start times
    people/         the store: embeddings and their columns (spnet_d2.gallery)
    units/          one JSON per unit of work that is in the store: its frames and boxes
    ready/          units that were looked at and are not in the store yet
    plans/          units of folders that are not done yet
    leases/         units that a process works on
    thumbnails/     crops of people
    calibration.json, cases/, audit.jsonl   of other modules

A unit is first looked at, then written to ``ready``, then put into the store; a process that is
killed at any moment leaves each unit in one of these states, and the next run goes on from there.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spnet_d2.errors import SearchInputError
from spnet_d2.gallery import (
    Filter,
    GalleryError,
    GallerySettings,
    GalleryStore,
    create_gallery,
    open_gallery,
)
from spnet_d2.gallery.errors import storage_errors
from spnet_d2.gallery.finding import Sighting
from spnet_d2.gallery.folder import read_versioned
from spnet_d2.search.frames import read_image_bgr
from spnet_d2.utils.atomic_io import write_json

from . import clips
from .findings import Findings, Scene, scenes_from_json
from .plans import Plans, file_lock
from .sources import Source, same_footage
from .thumbnails import Thumbnails
from .units import Unit

VERSION = 1
_FORMAT = "spnet_d2 gallery home"
_FILE = "home.json"
# Sides of a box in a unit's list differ from the store's by rounding.
_SAME_BOX = 0.2


class GalleryHome:
    """``GalleryHome.create(path, ...)`` or ``GalleryHome(path)``."""

    def __init__(self, path: str | Path):
        """
        Raises:
            GalleryError: no gallery home there, a damaged one, or one of another version.
        """
        self.path = Path(path).resolve()
        self._content = _read(self.path)
        self.settings = GallerySettings(**self._content["settings"])
        self.model: dict[str, Any] = self._content["model"]
        self.plans = Plans(self.path / "plans")
        self.thumbnails = Thumbnails(self.path / "thumbnails")
        self._store: GalleryStore | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        settings: GallerySettings,
        model: Mapping[str, Any],
        engine: str = "exact",
    ) -> "GalleryHome":
        """
        Make an empty one.

        Args:
            path: a new or an empty folder.
            settings: what makes its embeddings comparable.
            model: what opens the model again, plain values.
            engine: of the store.

        Raises:
            GalleryError: there is something already, it can't be written, or the engine is unknown
                or not installed.
        """
        home = Path(path).resolve()
        if (home / _FILE).exists():
            raise GalleryError(f"There is a gallery at {home} already.")
        with storage_errors(home, "making the gallery"):
            if home.exists() and (not home.is_dir() or any(home.iterdir())):
                # A run that was killed while it made the store left nothing else.
                if not home.is_dir() or {p.name for p in home.iterdir()} - {"people"}:
                    raise GalleryError(f"{home} is not empty; name a new folder.")
                _remove_tree(home / "people")
            home.mkdir(parents=True, exist_ok=True)
            create_gallery(home / "people", settings, engine).close()
            content = {
                "format": _FORMAT,
                "version": VERSION,
                "settings": asdict(settings),
                "model": dict(model),
            }
            write_json(home / _FILE, content, indent=1)
        return cls(home)

    @classmethod
    def create_or_open(
        cls,
        path: str | Path,
        settings: GallerySettings,
        model: Mapping[str, Any],
        engine: str = "exact",
    ) -> "GalleryHome":
        """The one that is there, else a new one, also when several processes want it at once."""
        place = Path(path).resolve()
        with storage_errors(place, "making the gallery"):
            place.parent.mkdir(parents=True, exist_ok=True)
        making = place.parent / f".{place.name}.making"
        with file_lock(making):
            there = exists(place)
            home = cls(place) if there else cls.create(place, settings, model, engine)
            # Whoever waits for it, or makes it again, finds the gallery.
            with suppress(OSError):  # Windows keeps open files
                making.unlink()
        return home

    @property
    def store(self) -> GalleryStore:
        """The people, for reading."""
        if self._store is None:
            self._store = open_gallery(self.path / "people")
        return self._store

    @contextmanager
    def writing(self) -> Iterator[GalleryStore]:
        """
        The people, for writing.

        Raises:
            GalleryError: another process writes.
        """
        store = open_gallery(self.path / "people", write=True)
        try:
            yield store
        finally:
            store.close()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    # Sources.

    def sources(self) -> dict[str, Source]:
        """By name."""
        content = _json(self.path / "sources.json", [])
        return {entry["name"]: Source.from_json(entry) for entry in content}

    def when(self, hit: Sighting) -> str:
        """When somebody was seen: the time, or where in the source where that is unknown."""
        if hit.time is not None:
            return hit.time.isoformat(sep=" ", timespec="seconds")
        known = self.sources().get(hit.source)
        return f"frame {hit.frame}" if known is None else known.position(hit.frame)

    def add_source(self, source: Source) -> None:
        """
        Know a source; again with another ``fps`` is allowed.

        Raises:
            GalleryError: its name belongs to another place, camera or start.
        """
        with file_lock(self.path / ".sources.lock"):
            known = self.sources()
            before = known.get(source.name)
            if before is not None and not same_footage(before, source):
                raise GalleryError(
                    f'The gallery has a source "{source.name}" already: {before.place}, camera '
                    f'"{before.camera}", start {before.start}. Give this one another name, or '
                    f"delete that one first (spnet-gallery delete --source)."
                )
            self._write_sources({**known, source.name: source})

    def _write_sources(self, sources: Mapping[str, Source]) -> None:
        with storage_errors(self.path, "writing"):
            content = [source.to_json() for source in sources.values()]
            write_json(self.path / "sources.json", content, indent=1)

    # Units of work.

    def unit_file(self, key: str) -> Path:
        return self.path / "units" / f"{key}.json"

    def ready_file(self, key: str) -> Path:
        return self.path / "ready" / f"{key}.npz"

    def is_done(self, key: str) -> bool:
        """Whether a unit is in the store, or will be without being looked at again."""
        return self.unit_file(key).exists() or self.ready_file(key).exists()

    def units(self, source: str) -> list[Unit]:
        """All units of a source that are done."""
        found = [u for _, u, _ in self._unit_files() if u.source == source]
        for file in sorted((self.path / "ready").glob("*.npz")):
            unit = Findings.load(file).unit
            if unit.source == source and not self.unit_file(unit.key).exists():
                found.append(unit)
        return found

    def scenes(self, source: str) -> list[Scene]:
        """Frames of a source that are in the store, in order."""
        found = [
            s for _, unit, scenes in self._unit_files() if unit.source == source for s in scenes
        ]
        return sorted(found, key=lambda scene: scene.frame)

    def _unit_files(self) -> Iterator[tuple[Path, Unit, list[Scene]]]:
        for file in sorted((self.path / "units").glob("*.json")):
            try:
                content = json.loads(file.read_bytes())
                yield file, Unit.from_json(content["unit"]), scenes_from_json(content["scenes"])
            except FileNotFoundError:
                # Deleted by another process meanwhile.
                continue
            except (ValueError, KeyError, TypeError) as error:
                raise GalleryError(
                    f"{file} is damaged ({error}); delete it and index its source again "
                    "(spnet-gallery verify names all such files)."
                ) from error

    def commit(self, store: GalleryStore) -> int:
        """
        Put all units that are ready into the store.

        Args:
            store: of :meth:`writing`.

        Returns:
            How many.
        """
        count = 0
        for file in sorted((self.path / "ready").glob("*.npz")):
            self._commit(store, Findings.load(file))
            file.unlink()
            count += 1
        return count

    def _commit(self, store: GalleryStore, findings: Findings) -> None:
        unit = findings.unit
        with storage_errors(self.path, "adding people to"):
            self.thumbnails.write(unit.key, findings.thumbnails)
        # A process that was killed here has added them already.
        if len(findings.people) and not store.count(Filter(batches=unit.key)):
            store.add(findings.people)
        with storage_errors(self.path, "adding people to"):
            self._write_unit(unit, findings.scenes, findings.found, findings.skipped)

    def _write_unit(self, unit: Unit, scenes: list[Scene], found: int, skipped: list[str]) -> None:
        content = {
            "unit": unit.to_json(),
            "scenes": [vars(scene) for scene in scenes],
            "found": found,
            "skipped": skipped,
        }
        write_json(self.unit_file(unit.key), content)

    # Images.

    def scene_image(self, source: str, frame: int) -> np.ndarray:
        """
        A frame, read again from its source.

        Args:
            source: name of the source.
            frame: as in ``People.frames``.

        Returns:
            (H, W, 3) uint8 BGR.

        Raises:
            GalleryError: no such source or frame, or the footage is gone or was changed.
        """
        known = self.sources().get(source)
        if known is None:
            raise GalleryError(f'The gallery has no source "{source}".')
        if known.kind == "stream":
            raise GalleryError(f'"{source}" is a stream: its frames were not kept.')
        if not known.available:
            raise GalleryError(f'The footage of "{source}" is not at {known.place} any more.')
        if known.kind == "video":
            return clips.read_at(known.place, frame / 1000).image
        for unit in self.units(source):
            for picture in unit.pictures:
                if picture.frame == frame:
                    return _image_in(Path(known.place), picture.file)
        raise GalleryError(f'"{source}" has no image number {frame} in this gallery.')

    # Deleting.

    def delete(self, where: Filter) -> int:
        """
        Remove people with their thumbnails and boxes, off the disk; footage stays.

        Args:
            where: whom; a filter without any condition is refused.

        Returns:
            How many rows.
        """
        with self.writing() as store:
            self.commit(store)
            people = store.fetch(store.find(where))
            count = store.delete(where)
            # The store first: whoever is not found any more has no use for a thumbnail.
            store.compact()
        self.thumbnails.delete(people.thumbnails.tolist())
        self._forget_boxes(people, where)
        return count

    def _forget_boxes(self, people, where: Filter) -> None:
        """Take deleted people, and all boxes before a time that was deleted, off the lists."""
        gone: dict[str, list[tuple[int, np.ndarray]]] = {}
        for key, frame, box in zip(people.batches, people.frames, people.boxes):
            gone.setdefault(str(key), []).append((int(frame), box))
        by_time = where.before is not None and where.ids is None
        for file, unit, scenes in list(self._unit_files()):
            if unit.key not in gone and not by_time:
                continue
            boxes = gone.get(unit.key, [])
            kept = [
                _without(s, [b for f, b in boxes if f == s.frame], where, by_time) for s in scenes
            ]
            content = json.loads(file.read_bytes())
            self._write_unit(unit, kept, content["found"], content["skipped"])

    def delete_source(self, name: str) -> int:
        """
        Remove a source with everything that came of it; the footage stays.

        Returns:
            How many rows.

        Raises:
            GalleryError: there is none.
        """
        sources = self.sources()
        if sources.pop(name, None) is None:
            raise GalleryError(
                f'The gallery has no source "{name}"; it has {", ".join(sources) or "none"}.'
            )
        with self.writing() as store:
            self.commit(store)
            count = store.delete(Filter(sources=name))
            store.compact()
        self._forget_units({unit.key for _, unit, _ in self._unit_files() if unit.source == name})
        self.plans.remove(name)
        self._write_sources(sources)
        return count

    def delete_units(self, keys: set[str]) -> int:
        """Remove units of work with their people, as if they had never been done."""
        with self.writing() as store:
            self.commit(store)
            count = store.delete(Filter(batches=sorted(keys)))
            store.compact()
        self._forget_units(keys)
        return count

    def _forget_units(self, keys: set[str]) -> None:
        for key in keys:
            self.thumbnails.delete_unit(key)
            self.unit_file(key).unlink(missing_ok=True)

    def problems(self) -> list[str]:
        """What is damaged, one sentence each, with what to do; [] for a whole gallery."""
        found = self.thumbnails.problems()
        for folder, kind in (("units", "*.json"), ("ready", "*.npz")):
            for file in sorted((self.path / folder).glob(kind)):
                try:
                    if folder == "ready":
                        Findings.load(file)
                    else:
                        content = json.loads(file.read_bytes())
                        Unit.from_json(content["unit"])
                except (GalleryError, ValueError, KeyError, TypeError):
                    found.append(f"{file} is damaged: delete it and index its source again.")
        try:
            count, step = self.store.find(), 10_000
            for start in range(0, len(count), step):
                people = self.store.fetch(count[start : start + step])
                if not np.isfinite(people.embeddings.astype(np.float32)).all():
                    found.append("The store has embeddings that are not finite: index again.")
        except (GalleryError, OSError, ValueError) as error:
            found.append(f"The store is damaged ({error}): index again into a new gallery.")
        return found


def _without(scene: Scene, boxes: list[np.ndarray], where: Filter, by_time: bool) -> Scene:
    """A scene without these boxes, and without any if its time was deleted."""
    kept = list(range(len(scene.boxes)))
    if by_time and scene.time is not None and np.datetime64(scene.time[:-6]) < where.before:
        kept = []
    for box in boxes:
        kept = [i for i in kept if np.abs(np.array(scene.boxes[i]) - box).max() > _SAME_BOX]
    changes = {"boxes": [scene.boxes[i] for i in kept], "scores": [scene.scores[i] for i in kept]}
    return Scene(**{**vars(scene), **changes})


def _image_in(folder: Path, file: str) -> np.ndarray:
    """An image of a folder; files that a changed list or a link puts elsewhere are refused."""
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise GalleryError(f"{file} is not inside {folder}.")
    try:
        return read_image_bgr(path)
    except SearchInputError as error:
        raise GalleryError(str(error)) from error


def _read(home: Path) -> dict[str, Any]:
    return read_versioned(home / _FILE, _FORMAT, VERSION, " spnet-gallery index makes one.")


def _json(file: Path, default: Any) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise GalleryError(f"{file} is damaged ({error}); put back a copy of it.") from error


def _remove_tree(path: Path) -> None:
    for entry in sorted(path.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    path.rmdir()


def exists(path: str | Path) -> bool:
    """Whether there is a gallery home."""
    return (Path(path) / _FILE).is_file()
