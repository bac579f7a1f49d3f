"""Scores and embeddings whose numbers show another unit than the format's: logits, percent, zeros.

What is evident is an error, what is odd a warning; what a bad model may give, such as no finite
embedding, is a warning too.
"""

import logging
from collections.abc import Mapping

import numpy as np

logger = logging.getLogger(__name__)

# Rounding of half precision.
_SLACK = 1e-3
# Rows of embeddings that are looked at.
_SAMPLE = 2000


def check_values(scores: np.ndarray, embeddings: Mapping[str, np.ndarray], where: str) -> None:
    """Odd ones are warnings.

    Args:
        scores: (N,) floats.
        embeddings: (n, D) each, by name.
        where: the file, for warnings.

    Raises:
        ValueError: scores are logits or percent.
    """
    _check_scores(scores, where)
    for name, rows in embeddings.items():
        _check_embeddings(rows, name, where)


def _check_scores(scores: np.ndarray, where: str) -> None:
    outside = (scores < -_SLACK) | (scores > 1 + _SLACK)
    if outside.any():
        low, high = np.nanmin(scores), np.nanmax(scores)
        cause = "Percent? Divide by 100" if low >= 0 and high <= 100 else "Logits? Take the sigmoid"
        message = (
            f"scores must be in [0, 1], but {count_of(outside)} are not, first: scores"
            f"[{np.argmax(outside)}] = {scores[np.argmax(outside)]:.6g} (they go from {low:.6g} to "
            f"{high:.6g}). {cause}"
        )
        if outside.mean() > 0.01:
            raise ValueError(message)
        logger.warning("%s: %s.", where, message)
    nan = np.isnan(scores)
    if nan.any():
        logger.warning("%s: %s scores are NaN and count as 0.", where, count_of(nan))


def _check_embeddings(embeddings: np.ndarray, name: str, where: str) -> None:
    if len(embeddings) == 0 or embeddings.shape[1] == 0:
        return
    rows = np.unique(np.linspace(0, len(embeddings) - 1, _SAMPLE).astype(int))
    sample = np.asarray(embeddings[rows], np.float32)
    finite = np.isfinite(sample).all(axis=1)
    zero = ~sample.any(axis=1)
    for odd, what in ((~finite, "have NaN or infinite numbers"), (zero, "are all zero")):
        if odd.any():
            logger.warning(
                "%s: %s rows looked at of %s %s, first: row %d. Such boxes are like nobody.",
                *(where, count_of(odd), name, what, rows[np.argmax(odd)]),
            )
    usable = sample[finite & ~zero]
    if len(usable) > 1 and usable.shape[1] > 1 and _same_direction(usable):
        message = "%s: %s are the same in all %d rows looked at: nobody can be told from anybody."
        logger.warning(message, where, name, len(usable))


def _same_direction(rows: np.ndarray) -> bool:
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)
    return bool(np.ptp(scaled, axis=0).max() < 1e-5)


def count_of(odd: np.ndarray | np.bool_) -> str:
    """How many values are odd, of how many: "3 of 10"."""
    return f"{np.count_nonzero(odd)} of {odd.size}"
