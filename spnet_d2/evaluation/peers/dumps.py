"""Readers of other projects' detections and features, one for each shape of file.

Whatever the project, a :class:`Dump` has per gallery image an array of boxes with scores and one of
features, in the order of that project's image list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spnet_d2.evaluation.peers.errors import DumpError
from spnet_d2.evaluation.peers.safe_load import load_any

COSINE, WEIGHTED = "cosine", "cosine times score"


@dataclass(frozen=True)
class Project:
    """
    What is known of a project's files.

    Attributes:
        title: as in its paper.
        reader: shape of its file: "lists", "oim" or "mmdet".
        ranking: what its published metrics rank by.
        floor: score below which its metrics leave detections out.
        remark: how its own evaluation differs from the standard rules.
    """

    title: str
    reader: str
    ranking: str
    floor: float = 0.5
    remark: str = ""


PROJECTS = {
    "seqnet": Project("SeqNet", "lists", WEIGHTED),
    "coat": Project("COAT", "lists", WEIGHTED),
    "nae": Project("NAE", "lists", WEIGHTED),
    "gfn": Project("GFN / SeqNeXt", "lists", WEIGHTED, remark="metrics with GFN are not scored"),
    "oim": Project("OIM", "oim", COSINE),
    "pstr": Project(
        "PSTR",
        "mmdet",
        COSINE,
        0.25,
        "its floor is 0.25 on CUHK-SYSU and 0.3 on PRW; on CUHK-SYSU it ranks a gallery image "
        "that is listed twice twice",
    ),
    "alignps": Project("AlignPS", "mmdet", COSINE, 0.2),
    "diffps": Project(
        "DiffPS", "lists", COSINE, 0.0, "its own metrics take IoU 0.5 for every size of box"
    ),
    "seas": Project(
        "SEAS", "lists", COSINE, 0.0, "its own metrics take IoU 0.5 for every size of box"
    ),
}


@dataclass
class Dump:
    """
    Attributes:
        boxes: per image (n, 4) xyxy float32.
        scores: per image (n,) float32.
        features: per image (n, D) float32.
        queries: (D,) per query in its own order, None where queries are detections.
        query_boxes: xyxy of each query where the file has them.
        image_names: of the images, where the file has them.
        query_names: image of each query, where the file has them.
    """

    boxes: list[np.ndarray]
    scores: list[np.ndarray]
    features: list[np.ndarray]
    queries: list[np.ndarray] | None = None
    query_boxes: list[np.ndarray] | None = None
    image_names: list[str] | None = None
    query_names: list[str] | None = field(default=None)

    @property
    def size(self) -> int:
        """D, length of a feature."""
        lengths = {f.shape[1] for f in self.features if len(f)} | {
            len(query) for query in self.queries or []
        }
        if len(lengths) != 1:
            raise DumpError(f"features must all have one length, found {sorted(lengths)}.")
        return lengths.pop()


def read_dump(project: str, paths: Sequence[str | Path]) -> Dump:
    """
    Read a project's file or files.

    Args:
        project: key of :data:`PROJECTS`.
        paths: its file; for OIM the folder, or its detections, features and query features.

    Raises:
        DumpError: it can't be loaded, or has another shape than that project's files.
    """
    reader = {"lists": _read_lists, "oim": _read_oim, "mmdet": _read_mmdet}
    return reader[PROJECTS[project].reader]([Path(path) for path in paths])


def _one(paths: Sequence[Path]) -> Path:
    if len(paths) != 1:
        raise DumpError(f"expected one file, found {len(paths)}: {', '.join(map(str, paths))}.")
    return paths[0]


def _read_lists(paths: Sequence[Path]) -> Dump:
    """``eval_cache.pth`` of SeqNet's evaluation code, or the same lists saved by hand."""
    path = _one(paths)
    content = load_any(path)
    wanted = ("gallery_dets", "gallery_feats", "query_box_feats")
    if not isinstance(content, dict) or not set(wanted) <= content.keys():
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise DumpError(f"{path}: expected a dict with {', '.join(wanted)}, found {found}.")
    dump = _from_lists(content["gallery_dets"], content["gallery_feats"], str(path))
    dump.queries = _query_rows(content["query_box_feats"], f"{path}: query_box_feats")
    dump.image_names = _names(content.get("image_names"))
    dump.query_names = _names(content.get("query_names"))
    if "query_boxes" in content:
        boxes = [_array(box, f"{path}: query_boxes").reshape(-1) for box in content["query_boxes"]]
        dump.query_boxes = boxes
    elif "query_dets" in content:
        # The query comes first, its companions behind it.
        rows = [_array(det, f"{path}: query_dets") for det in content["query_dets"]]
        dump.query_boxes = [row.reshape(-1, 5)[0, :4] for row in rows if row.size]
        if len(dump.query_boxes) != len(rows):
            dump.query_boxes = None
    return dump


def _read_oim(paths: Sequence[Path]) -> Dump:
    """The three pickles of OIM's Caffe code, or of its PyTorch port."""
    names = (
        ("gallery_detections.pkl", "gallery_features.pkl", "probe_features.pkl"),
        ("gboxes.pkl", "gfeatures.pkl", "qfeatures.pkl"),
    )
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        sets = [[folder / name for name in three] for three in names]
        paths = next((three for three in sets if all(p.is_file() for p in three)), [])
    if len(paths) != 3:
        listed = " or ".join(", ".join(three) for three in names)
        raise DumpError(f"expected a folder with {listed}, or three such files.")
    detections, features, queries = (load_any(path) for path in paths)
    dump = _from_lists(_feat(detections), _feat(features), str(paths[1]))
    dump.queries = _query_rows(_feat(queries), str(paths[2]))
    return dump


def _feat(content: Any) -> Any:
    return content["feat"] if isinstance(content, dict) and "feat" in content else content


def _read_mmdet(paths: Sequence[Path]) -> Dump:
    """What MMDetection's test tool writes by --out: per image a list with one (n, 5 + D) array."""
    path = _one(paths)
    content = load_any(path)
    if not isinstance(content, list) or not content:
        raise DumpError(f"{path}: expected a list with one entry for each image.")
    rows = []
    for place, entry in enumerate(content):
        entry = entry[0] if isinstance(entry, list | tuple) and len(entry) == 1 else entry
        row = _array(entry, f"{path}: image {place}")
        if row.size and (row.ndim != 2 or row.shape[1] < 6):
            raise DumpError(f"{path}: image {place} must be (n, 5 + D), found {row.shape}.")
        rows.append(row)
    size = max((row.shape[1] for row in rows if row.size), default=6)
    # Without a detection some write a width of their own.
    rows = [row if row.size else np.zeros((0, size), np.float32) for row in rows]
    for place, row in enumerate(rows):
        if row.shape[1] != size:
            raise DumpError(f"{path}: image {place} has {row.shape[1]} columns, others {size}.")
    return Dump([r[:, :4] for r in rows], [r[:, 4] for r in rows], [r[:, 5:] for r in rows])


def _from_lists(detections: Any, features: Any, where: str) -> Dump:
    if len(detections) != len(features):
        raise DumpError(
            f"{where}: {len(detections)} images have detections, {len(features)} features."
        )
    dets = [_array(d, f"{where}: detections of image {n}") for n, d in enumerate(detections)]
    feats = [_array(f, f"{where}: features of image {n}") for n, f in enumerate(features)]
    for place, (det, feat) in enumerate(zip(dets, feats)):
        if not det.size and not feat.size:
            continue
        if det.ndim != 2 or det.shape[1] != 5 or feat.ndim != 2 or len(det) != len(feat):
            raise DumpError(
                f"{where}: image {place} must have detections (n, 5) and features (n, D), found "
                f"{det.shape} and {feat.shape}."
            )
    size = max((feat.shape[1] for feat in feats if feat.size), default=1)
    empty = np.zeros((0, 5), np.float32)
    dets = [det if det.size else empty for det in dets]
    feats = [feat if feat.size else np.zeros((0, size), np.float32) for feat in feats]
    return Dump([d[:, :4] for d in dets], [d[:, 4] for d in dets], feats)


def _query_rows(rows: Any, where: str) -> list[np.ndarray]:
    found = [_array(row, where) for row in rows]
    for place, row in enumerate(found):
        if row.ndim not in (1, 2) or (row.ndim == 2 and len(row) != 1) or not row.size:
            raise DumpError(f"{where}: query {place} must be (D,) or (1, D), found {row.shape}.")
    return [row.reshape(-1) for row in found]


def _names(names: Any) -> list[str] | None:
    return None if names is None else [str(name) for name in names]


def _array(value: Any, where: str) -> np.ndarray:
    """float32 of an array, a tensor or a list of numbers; finite."""
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DumpError(f"{where} must be numbers ({error}).") from error
    if not np.isfinite(array).all():
        raise DumpError(f"{where} has numbers that are NaN or infinite.")
    return array
