"""What adaptation changed, on images that it was not trained on, by their labels."""

import numpy as np
from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from spnet_d2.data.geometry import xywh_to_xyxy
from spnet_d2.data.own_sets import read_sets
from spnet_d2.data.person_search_json import load_person_search_table
from spnet_d2.engine import Trainer
from spnet_d2.engine.serve import serve
from spnet_d2.evaluation import ALL_PROTOCOL
from spnet_d2.evaluation.detection import greedy_matches
from spnet_d2.search import PersonSearchPredictor, read_image_bgr

from .settings import Floor, best_floor
from .training_sets import HELD_OUT

# The floor is chosen among detections from here on.
_LEAST_SCORE = 0.05


def measure(cfg: CfgNode, weights: str) -> dict[str, float]:
    """
    Evaluate on the held-out set.

    Args:
        cfg: with the file of data sets in ``DATASETS.FILES``.
        weights: checkpoint.

    Returns:
        ``AP50``, ``mAP`` and ``gt_mAP`` in percent. People are tracklets.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (HELD_OUT,)
    cfg.TEST.PROTOCOLS = (ALL_PROTOCOL,)
    found = Trainer.test(cfg, serve(cfg, weights))
    figures = {**found["detection"], **found[ALL_PROTOCOL]}
    return {key: float(figures[key]) for key in ("AP50", "mAP", "gt_mAP")}


def choose_floor(cfg: CfgNode, weights: str) -> Floor:
    """
    The least score with the best F1 on the held-out set; see :func:`~.settings.best_floor`.

    Args:
        cfg, weights: as for :func:`measure`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = _LEAST_SCORE
    predictor = PersonSearchPredictor(cfg, weights=weights)
    (held,) = (s for s in read_sets(cfg.DATASETS.FILES[0]) if s.name == HELD_OUT)
    table = load_person_search_table(held.json)
    boxes, scores, groups = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0, np.int64)]
    for number, entry in enumerate(tqdm(table.images, desc="least score", unit="image")):
        (people,) = predictor.detect([read_image_bgr(held.images / entry["file_name"])])
        boxes.append(people.boxes)
        scores.append(people.scores)
        groups.append(np.full(len(people), number))
    labels = xywh_to_xyxy(table.boxes)
    found = np.concatenate(scores)
    right = greedy_matches(np.concatenate(groups), np.concatenate(boxes), found, table.rows, labels)
    return best_floor(found, right, len(labels))


def describe(before: dict[str, float], after: dict[str, float], floor: Floor) -> str:
    """Lines for people."""
    rows = [("boxes: AP50", "AP50"), ("tracklets: mAP", "mAP"), ("the same, given boxes", "gt_mAP")]
    table = tabulate(
        [[text, before[key], after[key]] for text, key in rows],
        ["held-out images, by their labels", "before", "after"],
        floatfmt=".1f",
    )
    return (
        f"{table}\nleast score {floor.score:.3f}: {100 * floor.precision:.1f} % of the boxes are "
        f"labelled people, {100 * floor.recall:.1f} % of these are found\n"
    )
