"""A re-id model in an ONNX or OpenVINO file: crops of people to embeddings."""

import os

import cv2
import numpy as np

from .detector import plain_settings
from .networks import open_network
from .pixels import crop, to_input
from .settings import ModelFileError, NetworkSettings, read_settings

# Crops at once, where the network takes any number.
_BATCH = 32


class ReidModel:
    """
    ``ReidModel.from_yaml("osnet.yaml").embed(image, boxes, "BGR")``.

    Attributes:
        embedding_dim: length of the embeddings.
        settings: plain values that embeddings depend on, weights included.
    """

    def __init__(self, settings: NetworkSettings):
        """
        Raises:
            ModelFileError: the network can't be used with these settings.
            ImportError: its runtime is not installed.
        """
        self.config = settings
        self._network = open_network(settings.network, settings.size)
        if len(self._network.output_shapes) != 1:
            raise ModelFileError(
                f"{settings.network}: expected a re-id model with one output, found "
                f"{', '.join(self._network.output_shapes)}."
            )
        self._batch = self._network.input_shape[0]
        self._output = list(self._network.output_shapes)
        # Not from the stated shape, which may leave it open.
        self.embedding_dim = self._run(np.zeros((1, 3, *settings.size), np.float32)).shape[1]
        self.settings = plain_settings(settings)

    @classmethod
    def from_yaml(cls, file: str | os.PathLike):
        """See :mod:`.settings`."""
        return cls(read_settings(file, NetworkSettings))

    def embed(self, image: np.ndarray, boxes: np.ndarray, image_format: str) -> np.ndarray:
        """
        Embed people by their crops.

        Args:
            image: (H, W, 3) uint8.
            boxes: (N, 4) xyxy, clipped to the image.
            image_format: "BGR" or "RGB".

        Returns:
            (N, embedding_dim) float32.
        """
        height, width = self.config.size
        parts = []
        for start in range(0, len(boxes), _BATCH):
            crops = [crop(image, box) for box in boxes[start : start + _BATCH]]
            crops = [cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) for c in crops]
            batch = np.stack([to_input(c, self.config, image_format) for c in crops])
            parts.append(self._run(batch))
        return np.concatenate([np.zeros((0, self.embedding_dim), np.float32), *parts])

    def _run(self, batch: np.ndarray) -> np.ndarray:
        """(B, D) embeddings of any number of crops."""
        size = len(batch) if self._batch < 0 else self._batch
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            missing = size - len(part)
            padded = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)])
            found = self._network.run(padded, self._output)[0]
            parts.append(found.reshape(size, -1)[: len(part)])
        return np.concatenate(parts).astype(np.float32)
