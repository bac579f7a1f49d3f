"""People as every predictor gives them; this needs neither PyTorch nor Detectron2."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PersonDetections:
    """
    People of one image, by falling score.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the image.
        scores: (N,) float32 in [0, 1].
        embeddings: (N, D_r) float32 re-id embeddings, compared by cosine similarity.
    """

    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, min_score: float) -> "PersonDetections":
        """Those with ``score >= min_score``."""
        keep = self.scores >= min_score
        return PersonDetections(self.boxes[keep], self.scores[keep], self.embeddings[keep])


@dataclass(frozen=True)
class PersonQuery:
    """
    A person to look for, as the model embedded their box in its scene.

    Attributes:
        reid: (D_r,) float32 re-id embedding, which ranks what is found.
        loc: (D,) float32 localisation embedding, which query-centric search finds people by.
    """

    reid: np.ndarray
    loc: np.ndarray
