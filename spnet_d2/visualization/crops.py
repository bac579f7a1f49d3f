"""Small images of people, as JPEG data URIs."""

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from tqdm import tqdm

from spnet_d2.data.image_reader import read_image, wrong_size_message
from spnet_d2.search.visualize import crop_person

SIZE = (80, 160)  # width, height
_QUALITY = 85

# Number of an image, and a box in it, xyxy.
Place = tuple[int, tuple[float, float, float, float]]


class CutOuts:
    """People cut out of their images; every image is read once.

    Attributes:
        missing: why an image cannot be used, by the number of the image.
    """

    def __init__(self, records: Mapping[int, dict], places: Iterable[Place]):
        """
        Args:
            records: dataset dicts with ``file_name``, ``width`` and
                ``height``, by the number of the image.
            places: the boxes to cut out; repeats are fine.
        """
        self.missing: dict[int, str] = {}
        self._uris: dict[Place, str] = {}
        boxes_of = defaultdict(set)
        for image, box in places:
            boxes_of[image].add(box)
        for image, boxes in tqdm(sorted(boxes_of.items()), "images", disable=None, leave=False):
            try:
                scene = _read(records[image])
            except (OSError, ValueError) as error:
                self.missing[image] = str(error)
                continue
            for box in boxes:
                if np.isfinite(box).all():
                    self._uris[image, box] = _data_uri(scene, box)

    def get(self, place: Place) -> str | None:
        """A data URI; None if the image is missing or the box is none."""
        return self._uris.get(place)


def _read(record: dict) -> np.ndarray:
    scene = read_image(record["file_name"])
    height, width = scene.shape[:2]
    if (width, height) != (record["width"], record["height"]):
        stated = record["height"], record["width"]
        raise ValueError(wrong_size_message(record["file_name"], stated, (height, width)))
    return scene


def _data_uri(scene: np.ndarray, box) -> str:
    crop = crop_person(scene, box, SIZE[0] / SIZE[1])
    scale = min(SIZE[0] / crop.shape[1], SIZE[1] / crop.shape[0])
    size = [max(1, round(side * scale)) for side in crop.shape[1::-1]]
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", crop[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
