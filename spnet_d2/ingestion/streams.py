"""Live streams: frames of several at once; one that breaks off is opened again."""

import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone

from spnet_d2.gallery import GalleryError

from . import clips
from .look import Shot, put
from .sources import Source

logger = logging.getLogger(__name__)

# Seconds before a stream that broke off is opened again: at first, and at most.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# Frames of all streams that wait for the model.
_WAITING = 4


def live(source: Source, stopped: threading.Event) -> Iterator[Shot]:
    """
    Frames of a stream, until it ends.

    Their numbers are milliseconds since 1970, so that they go on behind a break and in a later run.
    Times count from ``source.start``, else and behind a break from when the stream was opened.

    Args:
        source: the stream.
        stopped: no use in opening it again.

    Raises:
        GalleryError: not one frame could be read.
    """
    start, wait = source.start, FIRST_WAIT
    seen = False
    while True:
        start = start or datetime.now(timezone.utc)
        try:
            for frame in clips.read_span(source.place, fps=source.fps):
                seen, wait = True, FIRST_WAIT
                time = (start + timedelta(seconds=frame.time)).astimezone(timezone.utc)
                yield Shot(round(time.timestamp() * 1000), time, "", frame.image)
            return
        except GalleryError as error:
            if not seen:
                raise
            logger.warning("%s It will be opened again in %g s.", error, wait)
        if stopped.wait(wait):
            return
        start, wait = None, min(2 * wait, LONGEST_WAIT)


def together(
    streams: Mapping[str, Iterator[Shot]], stopped: threading.Event
) -> Iterator[tuple[str, Shot | Exception | None]]:
    """
    Frames of several streams as they come, each read by a thread of its own.

    Args:
        streams: by name.
        stopped: is set when nobody wants frames any more; threads end then.

    Yields:
        Name and frame; at a stream's end None, or what went wrong.
    """
    places: queue.Queue = queue.Queue(_WAITING)

    def read(name: str, shots: Iterator[Shot]) -> None:
        end: Exception | None = None
        try:
            for shot in shots:
                if not put(places, (name, shot), stopped):
                    return
        except Exception as error:  # it belongs to the one who waits for frames
            end = error
        put(places, (name, end), stopped)

    threads = [
        threading.Thread(target=read, args=item, name="stream", daemon=True)
        for item in streams.items()
    ]
    for thread in threads:
        thread.start()
    left = len(threads)
    try:
        while left:
            name, shot = places.get()
            left -= not isinstance(shot, Shot)
            yield name, shot
    finally:
        # Not waited for: one may hang in a read until its time is over.
        stopped.set()
