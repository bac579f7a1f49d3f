"""Read the frame lists, annotations and queries of PRW (version 16.04.20)."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spnet_d2.data.formats.corpus import FIRST_UNKNOWN_ID, Corpus, elements, integers, some, text

ORIGIN = (
    "https://github.com/liangzheng06/PRW-baseline links to PRW-v16.04.20.zip; unpack so that "
    "frames/ and annotations/ lie in this folder"
)
IMAGE_FOLDER = "frames"
UNKNOWN = -2
# Queries that miss their annotation by a pixel once both are cut to integers.
PATCHES = {
    ("c5s2_042630", (1859, 280, 60, 182)): (1859, 280, 59, 182),
    ("c5s2_082752", (77, 385, 120, 219)): (77, 385, 119, 219),
    ("c5s2_120599", (241, 390, 120, 315)): (241, 390, 119, 315),
}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class FrameQuery:
    """One line of ``query_info.txt``: who, where (x, y, w, h, patched) and in which frame."""

    person_id: int
    box: Box
    frame: str
    line: int


def open_corpus(dataset_dir: str | Path) -> Corpus:
    """The corpus at ``dataset_dir``, for reading."""
    return Corpus("PRW", Path(dataset_dir), ORIGIN)


def integer_boxes(boxes: np.ndarray) -> np.ndarray:
    """Cut (n, 4) boxes to int32 and raise negative numbers to 0; a negative x does not shrink w."""
    return np.maximum(integers(boxes), 0)


def camera(frame: str) -> int:
    """Camera of a frame name such as ``c1s3_016471``; raises ``ValueError`` for other names."""
    if not re.fullmatch(r"c\ds\d+_\d+", frame):
        raise ValueError(f"expected a frame name like c1s3_016471, found {frame!r}")
    return int(frame[1])


def read_frames(corpus: Corpus, part: str) -> list[str]:
    """Frame names, without ``.jpg``, of ``part`` (train or test), in file order."""
    relative = f"frame_{part}.mat"
    cells = corpus.load_mat(relative, [f"img_index_{part}"])
    with corpus.reading(corpus.root / relative, "a cell array of frame names without .jpg"):
        frames = [text(cell) for cell in elements(cells)]
        for frame in frames:
            camera(frame)
        return some(frames)


def read_people(corpus: Corpus, frame: str) -> tuple[list[int], list[Box]]:
    """Ids (-2 = unknown) and boxes of a frame."""
    # The files are called <frame>.jpg.mat.
    relative = f"annotations/{frame}.jpg.mat"
    rows = corpus.load_mat(relative, ["box_new", "anno_file", "anno_previous"])
    expected = f"rows of id, x, y, w, h, id -2 or 1 to {FIRST_UNKNOWN_ID - 1}"
    with corpus.reading(corpus.root / relative, expected):
        rows = np.asarray(rows, dtype=np.float64)
        if rows.size and rows.shape[-1] != 5:
            raise ValueError(f"found numbers of shape {rows.shape}")
        rows = rows.reshape(-1, 5)
        boxes = [tuple(box) for box in integer_boxes(rows[:, 1:]).tolist()]
        ids = integers(rows[:, 0])
        # Higher ones are given to unknown people.
        wrong = (ids != UNKNOWN) & ((ids < 1) | (ids >= FIRST_UNKNOWN_ID))
        if (wrong | (ids != rows[:, 0])).any():
            raise ValueError(f"found the ids {rows[:, 0].tolist()}")
    return ids.tolist(), boxes


def read_all_people(corpus: Corpus, frames: list[str]) -> dict[str, tuple[list[int], list[Box]]]:
    """:func:`read_people` of many frames, by frame."""
    progress = tqdm(frames, desc="PRW annotations", disable=None)
    return {frame: read_people(corpus, frame) for frame in progress}


def read_queries(corpus: Corpus) -> list[FrameQuery]:
    """The queries in file order."""
    path = corpus.require("query_info.txt")
    queries = []
    with corpus.reading(path, "lines of: pid x y w h frame"):
        # Lines end in CR LF; split() drops both.
        for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                queries.append(_query(line, number))
            except (ValueError, OverflowError) as error:
                raise ValueError(f"line {number}, {line!r}: {error}") from error
        return some(queries)


def _query(line: str, number: int) -> FrameQuery:
    """One line of ``query_info.txt``; raises ``ValueError`` or ``OverflowError``."""
    words = line.split()
    if len(words) != 6:
        raise ValueError(f"found {len(words)} words")
    person, *numbers, frame = words
    camera(frame)
    x, y, w, h = integer_boxes(np.array([numbers], dtype=np.float64))[0].tolist()
    box = (x, y, w, h)
    return FrameQuery(int(float(person)), PATCHES.get((frame, box), box), frame, number)
