"""``model.json``: what a runtime has to know of an exported model. Needs the standard library."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spnet_d2.errors import UserError
from spnet_d2.utils.atomic_io import write_text

FILE = "model.json"
FORMAT = 1


class ExportedModelError(UserError, ValueError):
    """A folder that holds no exported model, or one that can't be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Resize:
    """
    How an image becomes the detector's input.

    Attributes:
        kind: "wrs", bilinear to ``min_size`` of the shorter side unless the longer one would
            exceed ``max_size``; or "none".
        min_size, max_size: pixels.
        exact_8bit: the authors' 8-bit detour (:mod:`spnet_d2.data.eight_bit`), whose input is
            float32; otherwise it is uint8.
        pixel_mean, pixel_std: RGB, 0..255, for the detour; the graph has them inside.
    """

    kind: str
    min_size: int
    max_size: int
    exact_8bit: bool
    pixel_mean: list[float]
    pixel_std: list[float]


@dataclass(frozen=True, kw_only=True)
class StageFiles:
    """
    Graphs of a cascade stage.

    Attributes:
        embedder: gives the embeddings of boxes that the stage takes.
        head: embeddings and boxes -> refined boxes and logits.
        takes_queries: the head also takes the boxes' queries.
    """

    embedder: str
    head: str
    takes_queries: bool


@dataclass(frozen=True, kw_only=True)
class Description:
    """
    An exported model.

    Attributes:
        detector: graph of images -> p3, and boxes with scores; of query-centric models, p3,
            anchors and their embeddings.
        embedder: graph of p3 and boxes -> re-id embeddings.
        matcher: graph of anchors and queries -> boxes and scores; "" unless query-centric.
        localiser: graph of p3 and boxes -> localisation embeddings of queries; "" unless
            query-centric. The embedder itself with shared heads.
        stages: of the cascade.
        single: the graph with all of this and NMS inside; "" if there is none.
        query_centric: people are found for queries alone.
        resize: before the detector.
        min_score: least score of the first stage, exclusive.
        nms_threshold: IoU of the first stage.
        max_people: boxes of an image after it; 0: any number.
        stage_nms_threshold: IoU after every stage.
        embedding_dim, localisation_dim: D_r and D.
        classes: of the boxes.
        precision: "float32" or "float16".
        winograd: the detector computes convolutions in tiles (:mod:`.winograd`), in float32 alone.
        fingerprint: equal where boxes and embeddings can be compared, also with the PyTorch model
            if the precision is float32.
        settings: plain values, besides the weights, that boxes and embeddings depend on.
        licence: of the weights, for people to read.
    """

    detector: str
    embedder: str
    matcher: str
    localiser: str
    stages: list[StageFiles]
    single: str
    query_centric: bool
    resize: Resize
    min_score: float
    nms_threshold: float
    max_people: int
    stage_nms_threshold: float
    embedding_dim: int
    localisation_dim: int
    classes: list[str]
    precision: str
    winograd: bool
    fingerprint: str
    settings: dict[str, Any]
    licence: str

    def save(self, folder: str | os.PathLike) -> None:
        """Write ``model.json`` into ``folder``."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)
        write_text(Path(folder) / FILE, text + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Description":
        """
        Read the ``model.json`` of ``folder``.

        Raises:
            ExportedModelError: there is none, or not one that this version reads.
        """
        file = Path(folder) / FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ExportedModelError(
                f"No exported model in {Path(folder).absolute()}: expected {FILE} there "
                f"({error.strerror}). tools/export.py writes such a folder."
            ) from error
        except ValueError as error:
            raise ExportedModelError(f"{file} is not JSON: {error}") from error
        return _read(content, file)


def _read(content: dict, file: Path) -> Description:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ExportedModelError(f"{file}: expected format {FORMAT}; export the model again.")
    names = {f.name for f in fields(Description)}
    if missing := sorted(names - set(content)):
        raise ExportedModelError(f"{file} lacks {', '.join(missing)}; export the model again.")
    values = {name: content[name] for name in names}
    try:
        values["resize"] = Resize(**values["resize"])
        values["stages"] = [StageFiles(**stage) for stage in values["stages"]]
    except TypeError as error:
        raise ExportedModelError(f"{file}: {error}; export the model again.") from error
    return Description(**values)
