"""Frames of videos and streams by their presentation times, from any place in them.

PyAV (``spnet_d2[video]``) seeks exactly. Without it OpenCV reads from the start up to the place.
Times of streams and variable frame rates are those of the container, never ``number / fps``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from types import ModuleType
from typing import Any

import numpy as np

from spnet_d2.data.video_reader import UnreadableVideoError, VideoReader
from spnet_d2.gallery.errors import GalleryError

# Formats without times, by FFmpeg's names: cameras that send one JPEG after another, raw codecs.
_TIMELESS = {"mpjpeg", "mjpeg", "h264", "hevc"}


@dataclass(frozen=True)
class TimedImage:
    """
    Attributes:
        time: seconds from the first frame's time stamp.
        image: (H, W, 3) uint8 BGR.
    """

    time: float
    image: np.ndarray


def duration(place: str) -> float:
    """
    Seconds of a video, as its container states; 0 where it states nothing.

    Raises:
        GalleryError: no video.
    """
    av = _pyav()
    if av is None:
        return _open_opencv(place).duration
    with _opened(av, place) as container:
        stream = container.streams.video[0]
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return 0.0 if container.duration is None else container.duration / av.time_base


def read_span(
    place: str, since: float = 0.0, before: float = float("inf"), fps: float = float("inf")
) -> Iterator[TimedImage]:
    """
    The frames of a span, thinned out to ``fps`` per second.

    Of each 1 / fps seconds the first frame is taken, counted from the video's start: spans that
    begin at whole such steps give together what one span over all of them gives.

    Args:
        place: path of a video, or a stream's address.
        since, before: seconds from the first frame's time stamp.
        fps: most frames per second.

    Raises:
        GalleryError: no video, or it can't be decoded.
    """
    last = None
    for time, decode in _timed(place, since):
        if time >= before:
            return
        # Times are fractions of a time base: 0.9999 s is frame 1 of a second.
        step = time if np.isinf(fps) else int(time * fps + 1e-6)
        if time < since - 1e-6 or (last is not None and step <= last):
            continue
        last = step
        yield TimedImage(time, decode())


def read_at(place: str, time: float) -> TimedImage:
    """
    The first frame at or after a time.

    Raises:
        GalleryError: there is none, or it can't be decoded.
    """
    # Times were rounded to milliseconds.
    for frame in read_span(place, since=time - 0.0006):
        return frame
    raise GalleryError(f"{place} has no frame at {time:.3f} s any more; it was changed.")


def _timed(place: str, since: float) -> Iterator[tuple[float, Any]]:
    """Times, and what decodes their images, from shortly before ``since`` on."""
    av = _pyav()
    if av is None:
        yield from _timed_by_opencv(place)
        return
    with _opened(av, place) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stated = stream.start_time
        # Live streams begin anywhere, and say so by their first frame only.
        start = None if stated is None else float(stated * stream.time_base)
        if "://" in place and container.format.name in _TIMELESS:
            yield from _timed_by_arrival(av, place, container.decode(stream))
            return
        if since > 0:
            container.seek(int((since + (start or 0)) / stream.time_base), stream=stream)
        try:
            for frame in container.decode(stream):
                if frame.time is not None:
                    start = float(frame.time) if start is None else start
                    yield float(frame.time) - start, lambda f=frame: f.to_ndarray(format="bgr24")
        except av.error.FFmpegError as error:
            raise GalleryError(f"{place} is damaged or broke off: {error}.") from error


def _timed_by_arrival(av: ModuleType, place: str, frames: Any) -> Iterator[tuple[float, Any]]:
    """Frames with their time of arrival: this stream states no times of its own."""
    start = None
    try:
        for frame in frames:
            now = monotonic()
            start = now if start is None else start
            yield now - start, lambda f=frame: f.to_ndarray(format="bgr24")
    except av.error.FFmpegError as error:
        raise GalleryError(f"{place} is damaged or broke off: {error}.") from error


def _timed_by_opencv(place: str) -> Iterator[tuple[float, Any]]:
    reader = _open_opencv(place)
    if not reader.has_times:
        raise GalleryError(
            f"{place} states no times of its frames (a raw stream): wrap it into a container, e.g. "
            "ffmpeg -r FPS -i IN -c copy OUT.mp4."
        )
    for frame in reader.frames():
        if frame.time is not None:
            yield frame.time, lambda f=frame: f.image


def _open_opencv(place: str) -> VideoReader:
    try:
        return VideoReader(place)
    except FileNotFoundError as error:
        if "://" in place:
            raise GalleryError(
                f"{place}: streams need PyAV: pip install 'spnet_d2[video]'."
            ) from error
        raise GalleryError(str(error)) from error
    except UnreadableVideoError as error:
        raise GalleryError(str(error)) from error


def _opened(av: ModuleType, place: str) -> Any:
    # Packets are not lost by TCP, which a few cameras lack.
    options = {"rtsp_flags": "prefer_tcp"} if place.lower().startswith("rtsp") else {}
    try:
        container = av.open(place, options=options, timeout=(10.0, 30.0))
    except (av.error.FFmpegError, OSError) as error:
        raise GalleryError(f"{place} can't be opened as a video: {error}.") from error
    if not container.streams.video:
        container.close()
        raise GalleryError(f"{place} has no video in it.")
    return container


def _pyav() -> ModuleType | None:
    try:
        import av
    except ImportError:
        return None
    return av
