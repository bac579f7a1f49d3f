"""What the command-line tools that score predictions have in common."""

from pathlib import Path

import numpy as np

from spnet_d2.data.person_search_json import load_protocol
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import ALL_PROTOCOL, RetrievalProtocol

# Ends the message about annotations that are missing or broken.
ANNOTATIONS_HINT = "It is the generic person-search JSON of datasets/README.md."


def protocol_name(protocol: str) -> str:
    """The name of a protocol in results: its file's name without ``.json``."""
    return ALL_PROTOCOL if protocol == ALL_PROTOCOL else Path(protocol).stem


def read_protocol(protocol: str, truth: GroundTruth) -> RetrievalProtocol:
    """A protocol from its file, or the one that needs none.

    Raises:
        FileNotFoundError, ValueError: it cannot be used.
    """
    if protocol == ALL_PROTOCOL:
        return RetrievalProtocol.all_boxes(truth)
    content = load_protocol(protocol)
    return RetrievalProtocol.from_ids(
        protocol_name(protocol), truth, content.images, content.queries
    )


def image_sizes(images: list[dict]) -> np.ndarray:
    """(I, 2) width, height of images, by ascending id as in :class:`GroundTruth`."""
    sizes = [(entry["width"], entry["height"]) for entry in images]
    return np.array(sizes, np.float64).reshape(-1, 2)
