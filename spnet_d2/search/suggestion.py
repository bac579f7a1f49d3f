"""The similarity threshold that a model's evaluation suggested, for "not in this gallery"."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_KEY = "not_in_gallery_similarity"


@dataclass(frozen=True)
class Suggestion:
    """
    Attributes:
        similarity: cosine from which a best match should be believed.
        source: the metrics.json that says so.
    """

    similarity: float
    source: str


def find_suggestion(weights: str | os.PathLike, test_sets: Sequence[str] = ()) -> Suggestion | None:
    """
    Look for a suggested threshold in the folder of a training run.

    It was found on the data set that the run was evaluated on: elsewhere it is only a start.

    Args:
        weights: a checkpoint; evaluations lie in ``inference/<data set>/metrics.json`` beside it.
        test_sets: names of data sets whose evaluation is preferred, the first one most.

    Returns:
        The first found; None if the run was not evaluated, or no answer was right.
    """
    folder = Path(weights).parent / "inference"
    files = [folder / name / "metrics.json" for name in test_sets]
    files += sorted(folder.glob("*/metrics.json"))
    for path in files:
        try:
            value = json.loads(path.read_bytes()).get(_KEY)
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(value, int | float) and math.isfinite(value):
            return Suggestion(float(value), str(path))
    return None
