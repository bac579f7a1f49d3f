"""Predictions of any model, as flat arrays and as a file.

The ``.npz`` file holds exactly the fields of :class:`Predictions`, so a run can be scored again
without its model, and other people's detections can be scored too.
"""

import math
import os
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.prediction_values import check_values
from spnet_d2.utils.atomic_io import atomic_path

# name -> (dimensions, dtype kinds, what is expected)
_LAYOUT = {
    "image_ids": (1, "iu", "(N,) integers"),
    "boxes": (2, "fiu", "(N, 4) numbers"),
    "scores": (1, "f", "(N,) floats"),
    "embeddings": (2, "f", "(N, D) floats"),
    "gt_annotation_ids": (1, "iu", "(M,) integers"),
    "gt_embeddings": (2, "f", "(M, D) floats"),
    "query_annotation_ids": (1, "iu", "(N,) integers"),
    "scene_image_ids": (1, "iu", "(S,) integers"),
    "scene_embeddings": (2, "f", "(S, D) floats"),
    "scene_fuser": (2, "f", "(3, D) or (2, D) floats"),
}
_OPTIONAL = ("query_annotation_ids", "scene_image_ids", "scene_embeddings", "scene_fuser")


@dataclass(frozen=True)
class Predictions:
    """Detections and ground-truth embeddings of one data set.

    Attributes:
        image_ids: (N,) image id of each detection.
        boxes: (N, 4) xyxy, pixels of the original image.
        scores: (N,) detection scores in [0, 1].
        embeddings: (N, D) re-id embeddings, float16 or wider, of any length.
        gt_annotation_ids: (M,) unique ids of the annotations with an embedding: all
            queries, and all boxes if the GT metrics are wanted.
        gt_embeddings: (M, D) their embeddings, computed in their own scene.
        query_annotation_ids: (N,) the query each detection was found for, if
            the model searched query by query; None: detections serve all queries.
        made_by: fingerprint of the model: it differs when weights, sizes of images or
            whatever else changes boxes or embeddings do. "": unknown.
        scene_image_ids: (S,) unique ids of the images with a scene embedding, if the model has a
            gallery filter; those without detections are among them.
        scene_embeddings: (S, D) theirs, of any length.
        scene_fuser: (3, D) or (2, D) how a query sees a scene, see :mod:`.scene_scores`; None: not
            at all.

    Raises:
        ValueError: an array has the wrong type or shape (one message with all that is wrong).
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    gt_annotation_ids: np.ndarray
    gt_embeddings: np.ndarray
    query_annotation_ids: np.ndarray | None = None
    made_by: str = ""
    scene_image_ids: np.ndarray | None = None
    scene_embeddings: np.ndarray | None = None
    scene_fuser: np.ndarray | None = None

    def __post_init__(self):
        problems = _problems(self.arrays())
        if problems:
            raise ValueError("; ".join(problems) + ".")

    def arrays(self) -> dict[str, np.ndarray | None]:
        """All arrays by name."""
        return {name: getattr(self, name) for name in _LAYOUT}

    @property
    def is_query_centric(self) -> bool:
        return self.query_annotation_ids is not None

    def gt_rows(self, truth: GroundTruth) -> np.ndarray:
        """(G,) row in ``gt_embeddings`` of every ground-truth box, -1 without one.

        Raises:
            ValueError: an annotation id that the data set lacks.
        """
        kept = np.flatnonzero(~np.isin(self.gt_annotation_ids, truth.empty_annotation_ids))
        numbers = truth.find_annotations(self.gt_annotation_ids[kept], "predictions")
        rows = np.full(len(truth.boxes), -1)
        rows[numbers] = kept
        return rows

    def save(self, path: str) -> None:
        """Write ``path`` (``.npz``, uncompressed so that it can be memory-mapped), atomically."""
        arrays: dict[str, Any] = {k: v for k, v in self.arrays().items() if v is not None}
        if self.made_by:
            arrays["made_by"] = np.array(self.made_by)
        with atomic_path(path) as part:
            np.savez(part, **arrays)

    @classmethod
    def load(cls, path: str, mmap: bool = True) -> "Predictions":
        """Read a predictions file.

        Args:
            path: an ``.npz`` file with the fields of this class; others are ignored.
            mmap: map uncompressed arrays from the file instead of reading them.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not an ``.npz`` file, or arrays missing, malformed or of another unit.
        """
        names = list(_LAYOUT)
        try:
            archive = np.load(path, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            with archive:
                present = [name for name in names if name in archive.files]
                missing = [n for n in names if n not in present and n not in _OPTIONAL]
                if missing:
                    raise ValueError(f"it lacks {', '.join(missing)} (it has {archive.files})")
                mapped = _mapped_arrays(path) if mmap else {}
                found = cls(
                    **{n: mapped[n] if n in mapped else archive[n] for n in present},
                    made_by=_text(archive["made_by"]) if "made_by" in archive.files else "",
                )
            embeddings = {name: getattr(found, name) for name in ("embeddings", "gt_embeddings")}
            check_values(found.scores, embeddings, str(path))
            return found
        except IsADirectoryError:
            raise ValueError(f"{path} is a folder, but must be an .npz file.") from None
        except FileNotFoundError:
            raise FileNotFoundError(
                f"No predictions file at {os.path.abspath(path)}: expected an .npz file."
            ) from None
        # Whatever a damaged archive raises: numpy, zipfile, zlib and the tokenizer that reads the
        # arrays' headers have a dozen ways.
        except Exception as error:
            problem = (str(error) or type(error).__name__).removesuffix(".")
            # numpy takes what it does not know for pickles.
            if "pickle" in problem and zipfile.is_zipfile(path):
                problem = "it holds Python objects instead of plain arrays of numbers"
            elif "pickle" in problem:
                problem = "it is no archive of arrays"
            expected = ", ".join(f"{name} {shape}" for name, (_, _, shape) in _LAYOUT.items())
            raise ValueError(
                f"{path} cannot be used as predictions: {problem}. It must be an .npz file with "
                f"{expected} (the last four optional)."
            ) from error


def _text(array: np.ndarray) -> str:
    if array.shape or array.dtype.kind != "U":
        raise ValueError(f"made_by must be one text, found {array.dtype} {array.shape}")
    return str(array)


def _problems(arrays: dict) -> list[str]:
    problems = []
    for name, (ndim, kinds, expected) in _LAYOUT.items():
        array = arrays[name]
        if array is None and name in _OPTIONAL:
            continue
        if not isinstance(array, np.ndarray) or array.ndim != ndim or array.dtype.kind not in kinds:
            found = (
                f"{array.dtype} {array.shape}"
                if isinstance(array, np.ndarray)
                else type(array).__name__
            )
            problems.append(f"{name} must be {expected}, found {found}")
    if problems:
        return problems

    lengths = {
        name: len(arrays[name])
        for name in ("image_ids", "boxes", "scores", "embeddings", "query_annotation_ids")
        if arrays[name] is not None
    }
    if len(set(lengths.values())) > 1:
        problems.append(f"per-detection arrays must be equally long, found {lengths}")
    if arrays["boxes"].shape[1] != 4:
        problems.append(f"boxes must be (N, 4), found {arrays['boxes'].shape}")
    ids, gt_embeddings = arrays["gt_annotation_ids"], arrays["gt_embeddings"]
    if len(ids) != len(gt_embeddings):
        problems.append(f"{len(ids)} gt_annotation_ids but {len(gt_embeddings)} gt_embeddings")
    if len(np.unique(ids)) != len(ids):
        problems.append("gt_annotation_ids must be unique")
    embeddings = arrays["embeddings"]
    # An array without rows may not know D.
    if len(embeddings) and len(ids) and embeddings.shape[1] != gt_embeddings.shape[1]:
        problems.append(
            f"embeddings and gt_embeddings must have the same size D, found "
            f"{embeddings.shape[1]} and {gt_embeddings.shape[1]}"
        )
    return problems + _scene_problems(arrays)


def _scene_problems(arrays: dict) -> list[str]:
    ids, scenes, fuser = (
        arrays[name] for name in ("scene_image_ids", "scene_embeddings", "scene_fuser")
    )
    if ids is None or scenes is None:
        one = ids is not None or scenes is not None or fuser is not None
        return ["scene_image_ids and scene_embeddings need one another"] if one else []
    problems = []
    if len(ids) != len(scenes) or len(np.unique(ids)) != len(ids):
        problems.append(
            f"scene_image_ids must be unique, one for each scene embedding, found {len(ids)} ids "
            f"({len(np.unique(ids))} different) for {len(scenes)} scenes"
        )
    dim = arrays["gt_embeddings"].shape[1]
    if len(scenes) and len(arrays["gt_embeddings"]) and scenes.shape[1] != dim:
        problems.append(f"scene_embeddings must be (S, {dim}), found {scenes.shape}")
    if fuser is not None and fuser.shape not in ((3, scenes.shape[1]), (2, scenes.shape[1])):
        expected = f"(3, {scenes.shape[1]}) or (2, {scenes.shape[1]})"
        problems.append(f"scene_fuser must be {expected}, found {fuser.shape}")
    return problems


def _mapped_arrays(path: str) -> dict[str, np.ndarray]:
    """Memory maps of the uncompressed, non-empty arrays of an ``.npz`` file, by name."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            name, extension = os.path.splitext(member.filename)
            if member.compress_type != zipfile.ZIP_STORED or extension != ".npy":
                continue
            # The local file header: 30 bytes, whose last four give the lengths of two fields.
            file.seek(member.header_offset + 26)
            name_length, extra_length = np.frombuffer(file.read(4), "<u2")
            data = member.header_offset + 30 + int(name_length) + int(extra_length)
            file.seek(data)
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
            if 0 in shape or dtype.hasobject:
                continue
            # What a map shows beyond the end of an array belongs to the next one.
            missing = math.prod(shape) * dtype.itemsize - (member.file_size - (file.tell() - data))
            if missing > 0:
                raise ValueError(f"{missing} bytes at the end of {name} are missing")
            order: Literal["F", "C"] = "F" if fortran else "C"
            arrays[name] = np.memmap(path, dtype, "r", file.tell(), shape, order)
    return arrays
