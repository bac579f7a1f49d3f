"""torchvision's COCO detectors as person detectors; torchvision downloads the weights."""

import numpy as np
import torch
import torchvision
from torch import nn

from .two_stage.detector import keep_best
from .two_stage.settings import ModelFileError

MIN_SCORE = 0.5
MAX_PEOPLE = 300


class TorchvisionDetector:
    """``TorchvisionDetector.load("fasterrcnn_mobilenet_v3_large_320_fpn")``."""

    def __init__(self, model: nn.Module, person: int, name: str, min_score: float | None = None):
        """
        Args:
            model: a torchvision detector, or anything with its input and output.
            person: number of the class "person".
            name: of the model and its weights, for fingerprints.
            min_score: least score; None: ``MIN_SCORE``.
        """
        self._model = model.eval()
        self._person = person
        self.min_score = MIN_SCORE if min_score is None else min_score
        self.settings = {"network": name, "person": person}

    @classmethod
    def load(cls, name: str, min_score: float | None = None) -> "TorchvisionDetector":
        """
        Args:
            name: of a torchvision detector with COCO weights.
            min_score: see ``__init__``.

        Raises:
            ModelFileError: an unknown name, or weights that can't be fetched.
        """
        known = torchvision.models.list_models(module=torchvision.models.detection)
        if name not in known:
            raise ModelFileError(
                f"torchvision has no detector {name}; it has {', '.join(sorted(known))}."
            )
        weights = torchvision.models.get_model_weights(name).DEFAULT
        try:
            model = torchvision.models.get_model(name, weights=weights, weights_backbone=None)
        # Of the network, or of a damaged download.
        except (OSError, RuntimeError) as error:
            raise ModelFileError(
                f"Can't get the weights of torchvision:{name} from {weights.url} ({error}). Put "
                f"the file into {torch.hub.get_dir()}/checkpoints, or give a detector as YAML."
            ) from error
        return cls(
            model, weights.meta["categories"].index("person"), f"{name} {weights}", min_score
        )

    def detect(self, image: np.ndarray, image_format: str) -> tuple[np.ndarray, np.ndarray]:
        """As :class:`~.two_stage.detector.PersonDetector` says."""
        rgb = image[:, :, ::-1] if image_format == "BGR" else image
        pixels = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float() / 255
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            found = self._model([pixels.to(device)])[0]
        people = found["labels"] == self._person
        boxes = found["boxes"][people].cpu().numpy().astype(np.float64)
        scores = found["scores"][people].cpu().numpy()
        # torchvision has done its own NMS.
        return keep_best(boxes, scores, image.shape[:2], self.min_score, 1.0, MAX_PEOPLE)
