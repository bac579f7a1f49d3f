"""What adaptation changed, on images that it was not trained on, by their labels."""

import os
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tabulate import tabulate

from spnet_d2.engine import Trainer
from spnet_d2.engine.serve import serve
from spnet_d2.evaluation import ALL_PROTOCOL
from spnet_d2.evaluation.detection import greedy_matches
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions

from .settings import Floor, best_floor
from .training_sets import HELD_OUT

# The least score is chosen among detections from here on. Metrics count those from 0.5 on, as
# always, so that one pass over the images serves both.
_LEAST_SCORE = 0.05


@dataclass(frozen=True)
class Check:
    """
    What a model does on the held-out set.

    Attributes:
        metrics: ``AP50``, ``mAP`` and ``gt_mAP`` in percent. People are tracklets.
        predictions: all detections with a score over 0.05, and the labelled boxes' embeddings.
    """

    metrics: dict[str, float]
    predictions: Predictions


def check(cfg: CfgNode, weights: str) -> Check:
    """
    Evaluate on the held-out set.

    Args:
        cfg: with the file of data sets in ``DATASETS.FILES``; the evaluation's files go into its
            ``OUTPUT_DIR``.
        weights: checkpoint.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (HELD_OUT,)
    cfg.TEST.PROTOCOLS = (ALL_PROTOCOL,)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = _LEAST_SCORE
    found = Trainer.test(cfg, serve(cfg, weights))
    results = {**found["detection"], **found[ALL_PROTOCOL]}
    metrics = {key: float(results[key]) for key in ("AP50", "mAP", "gt_mAP")}
    file = os.path.join(cfg.OUTPUT_DIR, "inference", HELD_OUT, "predictions.npz")
    return Check(metrics, Predictions.load(file))


def choose_floor(predictions: Predictions) -> Floor:
    """
    The least score with the best F1 on the held-out set; see :func:`~.settings.best_floor`.

    Args:
        predictions: of :func:`check`.
    """
    truth = GroundTruth.from_dicts(DatasetCatalog.get(HELD_OUT))
    right = greedy_matches(
        truth.find_images(predictions.image_ids, "predictions"),
        predictions.boxes,
        predictions.scores,
        truth.image_index,
        truth.boxes,
    )
    return best_floor(predictions.scores, right, len(truth.boxes))


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
