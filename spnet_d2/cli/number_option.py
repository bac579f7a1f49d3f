"""Types of options that take a number within limits."""

import argparse
import logging
import math
from collections.abc import Callable

logger = logging.getLogger(__name__)


def number(least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """The type of an option that takes a finite number from ``least`` to ``most``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and least <= value <= most:
            return value
        raise argparse.ArgumentTypeError(f"must {_rule(least, most)}, found {text}")

    return parse


def _rule(least: float, most: float) -> str:
    if math.isfinite(least) and math.isfinite(most):
        return f"lie between {least:g} and {most:g}"
    return f"be a number, {least:g} or more" if math.isfinite(least) else "be a finite number"


# Scores of detections and IoU; cosines; counts, lengths and times.
fraction = number(0, 1)
cosine = number(-1, 1)
not_negative = number(0)
finite = number()


def least_similarity(text: str) -> float:
    """The type of an option that leaves out smaller cosines; says so where it leaves out all."""
    value = finite(text)
    if value > 1:
        logger.warning("A least similarity of %g leaves out everybody: cosines end at 1.", value)
    return value
