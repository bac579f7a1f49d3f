"""The formats people have, to the person-search JSON (``datasets/convert.py``)."""

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

__all__ = ["READERS", "Choices", "Source", "SourceError", "Tally", "build_partition"]
