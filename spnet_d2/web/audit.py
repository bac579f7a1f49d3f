"""The audit log: who searched for whom, and what left the gallery. Lines are only ever added."""

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock

FILE = "audit.jsonl"


class AuditLog:
    """
    One JSON object per line; no image data in it.

    Args:
        folder: where ``audit.jsonl`` is or will be.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._lock = Lock()

    def write(self, who: str, what: str, **details: object) -> None:
        """
        Add a line, and have it on the disk before what it tells of happens.

        Raises:
            OSError: it can't be written, so what was to be logged must not happen.
        """
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "who": who,
            "what": what,
            "details": details,
        }
        line = (json.dumps(entry, ensure_ascii=True) + "\n").encode()
        with self._lock:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            descriptor = os.open(self.path, flags, 0o600)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def latest(self, count: int) -> list[dict]:
        """The newest lines, newest first; a line that a crash cut off is left out."""
        try:
            with open(self.path, "rb") as file:
                # Lines of a search with 100 examples have a few kB.
                file.seek(max(0, os.fstat(file.fileno()).st_size - count * 4096))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in reversed(lines):
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries[:count]
