"""The formats people have, to the person-search JSON (``datasets/convert.py``)."""

from pathlib import Path
from typing import Any

from spnet_d2.data.formats.convert import coco, crowdhuman, cvat, labelstudio, mot, voc, yolo
from spnet_d2.data.formats.convert.build import Choices, Tally, build_partition
from spnet_d2.data.formats.convert.source import Source, SourceError

READERS = {
    "mot": mot.read,
    "coco": coco.read,
    "voc": voc.read,
    "yolo": yolo.read,
    "crowdhuman": crowdhuman.read,
    "labelstudio": labelstudio.read,
    "cvat": cvat.read,
}

# How taking apart something of another structure fails.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def read_source(
    format_: str, path: Path, images: Path | None = None, skip_bad: bool = False, **options: Any
) -> Source:
    """
    Read a data set.

    Args:
        format_: key of :data:`READERS`, whose functions say what ``path`` and ``options`` are.
        path, images, skip_bad, options: for the reader.

    Raises:
        SourceError: it can't be used; the place is named wherever it is known.
    """
    try:
        return READERS[format_](path, images, skip_bad, **options)
    except SourceError:
        raise
    except _MALFORMED as error:
        raise SourceError(
            f"{path} is not as {format_} files are: some part has another type or structure "
            f"({type(error).__name__}: {error})."
        ) from error


__all__ = [
    "READERS",
    "Choices",
    "Source",
    "SourceError",
    "Tally",
    "build_partition",
    "read_source",
]
