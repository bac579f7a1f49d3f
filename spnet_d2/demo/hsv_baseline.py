"""Colour-stripe histograms: what person search reaches without any learning.

A box is cut into horizontal stripes (hair, jacket, trousers, shoes ...), each described by a joint
histogram of hue, saturation and value. Ground-truth boxes are ranked instead of detections, so the
metrics flatter the baseline; a model worth its training beats them with its own detections.
"""

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from tqdm import tqdm

from spnet_d2.data.image_reader import read_image
from spnet_d2.evaluation import PersonSearchEvaluator
from spnet_d2.evaluation.report import fractions

STRIPES = 6
# Hue, saturation, value.
BINS = (8, 4, 4)


def stripe_histogram(image: np.ndarray, box, stripes: int = STRIPES, bins=BINS) -> np.ndarray:
    """
    Describe a box by its colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: xyxy in pixels; clipped to the image, at least one pixel is taken.
        stripes: of equal height, top to bottom.
        bins: of hue, saturation and value.

    Returns:
        (stripes * product of bins,) float32 of length 1: square roots of each stripe's
        frequencies. The cosine of two is the mean Bhattacharyya coefficient of their stripes.
    """
    height, width = image.shape[:2]
    x1, y1 = (int(min(max(np.floor(v), 0), side - 1)) for v, side in zip(box[:2], (width, height)))
    x2, y2 = (
        int(min(max(np.ceil(v), low + 1), side))
        for v, low, side in zip(box[2:], (x1, y1), (width, height))
    )
    hsv = cv2.cvtColor(np.ascontiguousarray(image[y1:y2, x1:x2]), cv2.COLOR_RGB2HSV)
    edges = np.linspace(0, len(hsv), stripes + 1)
    parts = []
    for top, bottom in zip(edges[:-1], edges[1:]):
        # A box lower than the number of stripes repeats rows.
        top = min(int(top), len(hsv) - 1)
        stripe = hsv[top : max(int(bottom), top + 1)].reshape(-1, 3)
        # OpenCV's hue of 8-bit images is 0..179.
        counts, _ = np.histogramdd(stripe, bins=bins, range=((0, 180), (0, 256), (0, 256)))
        parts.append(np.sqrt(counts.ravel() / len(stripe)))
    return (np.concatenate(parts) / np.sqrt(stripes)).astype(np.float32)


def evaluate_hsv_baseline(
    dataset_name: str, protocols: tuple[str, ...] = (), progress: bool = False
) -> dict[str, dict[str, float]]:
    """
    Score the baseline on a registered data set, with the evaluator that scores models.

    Args:
        dataset_name: registered with ``register_person_search``.
        protocols: as for :class:`~spnet_d2.evaluation.PersonSearchEvaluator`.
        progress: show a progress bar.

    Returns:
        ``{protocol: {"mAP", "top1"}}``, fractions.
    """
    evaluator = PersonSearchEvaluator(dataset_name, protocols, distributed=False)
    dim = STRIPES * int(np.prod(BINS))
    for image in tqdm(DatasetCatalog.get(dataset_name), unit="image", disable=not progress):
        annotations = image["annotations"]
        boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        pixels = read_image(image["file_name"])
        rows = [stripe_histogram(pixels, box) for box in boxes]
        embeddings = torch.from_numpy(np.array(rows, np.float32).reshape(-1, dim))
        size = pixels.shape[:2]
        ids = torch.tensor([a["annotation_id"] for a in annotations], dtype=torch.int64)
        detections = Instances(
            size,
            pred_boxes=Boxes(torch.from_numpy(boxes)),
            scores=torch.ones(len(boxes)),
            reid_embeddings=embeddings,
        )
        evaluator.process(
            [{"image_id": image["image_id"], "instances": Instances(size, gt_annotation_ids=ids)}],
            [{"instances": detections, "gt_embeddings": {"reid": embeddings}}],
        )
    results = fractions(evaluator.evaluate())
    return {
        name: {"mAP": metrics["mAP"], "top1": metrics["top1"]}
        for name, metrics in results.items()
        if name != "detection"
    }
