"""Images that users upload to search with: small, checked, in memory only, soon deleted."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from spnet_d2.data.image_reader import decode_image
from spnet_d2.errors import UserError

# A phone's picture has 12 to 50 million pixels and less than 20 MB.
MAX_BYTES = 25_000_000
MAX_PIXELS = 60_000_000
_KEPT_BYTES = 200_000_000
_KEPT_SECONDS = 3600.0


class NoUploadError(UserError, LookupError):
    """An upload that is not, or no longer, there."""


class UploadError(UserError, ValueError):
    """An upload that is too large, or no image."""


@dataclass(frozen=True)
class Upload:
    """
    An image as it was uploaded.

    Attributes:
        id: what names it.
        data: the file's bytes.
        size: (width, height) of the upright image.
    """

    id: str
    data: bytes
    size: tuple[int, int]

    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR, upright."""
        return np.ascontiguousarray(decode_image(self.data, MAX_PIXELS)[:, :, ::-1])


class Uploads:
    """The latest uploads, in memory."""

    def __init__(
        self,
        kept_bytes: int = _KEPT_BYTES,
        kept_seconds: float = _KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._kept_bytes = kept_bytes
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._uploads: OrderedDict[str, tuple[float, Upload]] = OrderedDict()
        self._lock = Lock()

    def add(self, data: bytes) -> Upload:
        """
        Check an image and keep it for an hour, or until newer ones need its place.

        Raises:
            UploadError: more than ``MAX_BYTES``.
            CorruptImageError: no image, damaged, or more than ``MAX_PIXELS`` by its header.
        """
        if len(data) > MAX_BYTES:
            raise UploadError(
                f"The picture has more than {MAX_BYTES // 1_000_000} MB; send a smaller copy."
            )
        height, width = decode_image(data, MAX_PIXELS).shape[:2]
        upload = Upload(secrets.token_urlsafe(12), data, (width, height))
        with self._lock:
            self._uploads[upload.id] = (self._clock(), upload)
            self._forget()
        return upload

    def get(self, upload_id: str) -> Upload:
        """
        Raises:
            NoUploadError: unknown, or forgotten by now.
        """
        with self._lock:
            self._forget()
            if upload_id not in self._uploads:
                raise NoUploadError(
                    "This uploaded picture is not kept any longer (pictures are forgotten after "
                    "an hour, or when newer ones come); upload it again."
                )
            return self._uploads[upload_id][1]

    def _forget(self) -> None:
        now = self._clock()
        total = sum(len(upload.data) for _, upload in self._uploads.values())
        for name, (since, upload) in list(self._uploads.items()):
            if total <= self._kept_bytes and now - since <= self._kept_seconds:
                break
            total -= len(upload.data)
            del self._uploads[name]
