"""Who works on which unit: one file per unit, taken over when its owner shows no life any more."""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

# A lease whose file was not touched for so long belongs to nobody.
EXPIRES = 60.0


class Leases:
    """
    Leases in a folder that all processes, on one machine or several, see.

    Args:
        folder: where; made when needed.
        expires: seconds without a sign of life.
    """

    def __init__(self, folder: Path, expires: float = EXPIRES):
        self._folder = folder
        self._expires = expires
        self._held: set[Path] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, key: str) -> bool:
        """Whether the unit is this process's now."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / key
        self._end_expired(file)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as opened:
            json.dump({"host": socket.gethostname(), "process": os.getpid()}, opened)
        with self._lock:
            self._held.add(file)
        self._start()
        return True

    def release(self, key: str) -> None:
        file = self._folder / key
        with self._lock:
            self._held.discard(file)
        file.unlink(missing_ok=True)

    def close(self) -> None:
        """Release all that are held."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for file in list(self._held):
            self.release(file.name)

    def _end_expired(self, file: Path) -> None:
        # Renaming is atomic: of several processes that find it expired, one moves it away.
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > self._expires:
                moved = file.with_name(f".{uuid.uuid4().hex}")
                os.rename(file, moved)
                if time.time() - moved.stat().st_mtime > self._expires:
                    moved.unlink()
                else:
                    # Another process took it between the look and the move: it is theirs.
                    os.rename(moved, file)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._touch, name="leases", daemon=True)
            self._thread.start()

    def _touch(self) -> None:
        while not self._stop.wait(self._expires / 6):
            with self._lock:
                for file in self._held:
                    with suppress(FileNotFoundError):
                        os.utime(file)
