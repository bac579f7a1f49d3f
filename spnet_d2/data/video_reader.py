"""The one video reader: frames in order, with the time that the container states for each."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np


class UnreadableVideoError(ValueError):
    """A file that is no video, or one that OpenCV can't decode."""


@dataclass(frozen=True)
class VideoFrame:
    """
    Attributes:
        number: from 0; frames that are stepped over count.
        time: seconds from the start, as the container states; None where it states none.
        image: (H, W, 3) uint8 BGR.
    """

    number: int
    time: float | None
    image: np.ndarray


class VideoReader:
    """
    A video file; it can be read several times.

    Attributes:
        num_frames: of the video, where the container states it (MP4, MOV, AVI); otherwise 0.
            Others state a duration, of which OpenCV makes a number by the average rate.
        duration: seconds, as the header announces; 0 where it doesn't.
        problem: why the last pass ended before the end that the header announces; "" if it
            didn't.
    """

    def __init__(self, path: str | os.PathLike):
        """
        Raises:
            FileNotFoundError: no such file.
            UnreadableVideoError: not one frame of it can be read.
        """
        self.path = os.fspath(path)
        self.problem = ""
        if not Path(path).is_file():
            raise FileNotFoundError(f"No video at {os.path.abspath(path)}; check the path.")
        with open(path, "rb") as file:
            head = file.read(16)
        capture = cv2.VideoCapture(self.path)
        try:
            times = _first_times(capture)
            fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        if not times:
            raise UnreadableVideoError(
                f"OpenCV {cv2.__version__} can't read {self.path} as a video; convert it, e.g. to "
                ".avi (MJPG) or .mp4 (H.264)."
            )
        # Raw streams (exports of cameras) hold no times: OpenCV's stand still for H.264, and assume
        # 25 frames a second for JPEGs one after the other.
        self.has_times = (len(times) == 1 or max(times) > times[0]) and not _is_jpeg_stream(head)
        self.num_frames = int(count) if _states_count(head) and 0 < count < 2**31 else 0
        announced = np.isfinite(fps) and fps > 0 and 0 < count < 2**31
        self.duration = count / fps if announced and self.has_times else 0.0

    def frames(self, wanted=lambda number: True) -> Iterator[VideoFrame]:
        """
        Read from the start to the end, or to where the file is damaged (see ``problem``).

        Args:
            wanted: function of a frame's number: whether to give it. Others are stepped over,
                for seeking is inexact in many formats.
        """
        capture = cv2.VideoCapture(self.path)
        number, time = 0, None
        self.problem = ""
        try:
            while capture.grab():
                time = self._time(capture, time)
                if wanted(number):
                    found, image = capture.retrieve()
                    if not found:
                        break
                    yield VideoFrame(number, time, image)
                number += 1
        finally:
            capture.release()
        self.problem = self._what_is_missing(number, time)

    def _time(self, capture: cv2.VideoCapture, before: float | None) -> float | None:
        """Of the grabbed frame; the container is not believed where its clock stands still."""
        if not self.has_times:
            return None
        time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return time if before is None or time > before else None

    def _what_is_missing(self, number: int, time: float | None) -> str:
        if self.num_frames:
            if number < self.num_frames:
                return f"read {number} of the {self.num_frames} frames that its header announces"
        # The last frame may be shown for a while.
        elif time is not None and time < 0.9 * self.duration - 1:
            return f"ends after {time:.1f} of the {self.duration:.1f} s that its header announces"
        return ""


def _first_times(capture: cv2.VideoCapture) -> list[float]:
    """Times of the first eight frames, milliseconds; fewer if there are fewer."""
    times: list[float] = []
    while capture.isOpened() and len(times) < 8 and capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    return times


def _is_jpeg_stream(head: bytes) -> bool:
    """JPEGs one after the other, bare or as parts of an HTTP answer."""
    return head.startswith(b"\xff\xd8") or head.lstrip().startswith(b"--")


def _states_count(head: bytes) -> bool:
    return head[4:8] == b"ftyp" or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
