"""The images that annotations speak of: where they are, and how large."""

import logging
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path

from spnet_d2.data.formats.convert.source import SourceError, bad
from spnet_d2.data.image_reader import (
    image_suffixes,
    is_image_name,
    upright_size,
    wrong_size_message,
)

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


class ImageFiles:
    """
    Images below a folder.

    Attributes:
        root: the folder.
        skipped: images left out so far, by reason; only with ``skip_bad``.
    """

    def __init__(self, root: str | Path, skip_bad: bool = False):
        """
        Args:
            root: folder that file names are relative to.
            skip_bad: leave out images that are missing, unreadable or of another size than
                annotated, instead of stopping there.

        Raises:
            SourceError: no such folder.
        """
        self.root = Path(root)
        self.skip_bad = skip_bad
        self.skipped: Counter = Counter()
        if not self.root.is_dir():
            raise SourceError(
                f"No image folder at {self.root.absolute()}; name the one that holds the images "
                "with --images."
            )

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths relative to the root, by file name in lower case."""
        found = defaultdict(list)
        for path in self.all():
            found[path.rsplit("/", 1)[-1].lower()].append(path)
        return found

    def all(self) -> list[str]:
        """All images below the root, relative to it, sorted."""
        paths = (p for p in self.root.rglob("*") if is_image_name(p) and p.is_file())
        return sorted(p.relative_to(self.root).as_posix() for p in paths)

    def find(self, *names: str) -> str | None:
        """
        Path relative to the root of the first of ``names`` that is there.

        A name counts from the root; otherwise its last part may lie anywhere below, if only one
        file has it. A name without a suffix of images may have any.

        Raises:
            SourceError: several files have the name.
        """
        for name in names:
            # Of Windows, too.
            name = name.replace("\\", "/").lstrip("/")
            for suffix in ("", *image_suffixes()):
                if name and (self.root / (name + suffix)).is_file():
                    return name + suffix
        for name in names:
            last = name.replace("\\", "/").rsplit("/", 1)[-1].lower()
            for suffix in ("", *image_suffixes()):
                found = self._by_name.get(last + suffix, [])
                if len(found) > 1:
                    raise SourceError(
                        f"{len(found)} images below {self.root} are called {last + suffix} "
                        f"({', '.join(found[:3])}); the annotations say only {name!r}. Choose the "
                        "folder with --images so that the name counts from there."
                    )
                if found:
                    return found[0]
        return None

    def open(
        self,
        names: tuple[str, ...],
        where: str | Path,
        line: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> tuple[str, int, int] | None:
        """
        Find an image and read its size, upright as EXIF says, as all images are read.

        Args:
            names: as for :meth:`find`.
            where, line: the place that speaks of it, for errors.
            size: width and height there, if it says so.

        Returns:
            (path relative to the root, width, height); None if it is left out.

        Raises:
            SourceError: missing, unreadable or of another size, without ``skip_bad``.
        """
        path = self.find(*names)
        if path is None:
            message = f"no image {names[0]!r} below {self.root} (--images)"
            self._left_out("missing", bad(where, message, line))
            return None
        file = self.root / path
        try:
            found = upright_size(file)
        # Pillow's readers report damage in many ways.
        except Exception as error:
            message = f"{file} is not a readable image ({type(error).__name__}: {error})"
            self._left_out("not readable", bad(where, message, line))
            return None
        if size is not None and tuple(size) != found:
            message = wrong_size_message(str(file), (size[1], size[0]), found[::-1])
            self._left_out("of another size than annotated", bad(where, message, line))
            return None
        return path, *found

    def _left_out(self, reason: str, error: SourceError) -> None:
        if not self.skip_bad:
            raise SourceError(f"{error} (--skip-bad-images leaves such images out)")
        logger.warning("left out: %s", error)
        self.skipped[reason] += 1
