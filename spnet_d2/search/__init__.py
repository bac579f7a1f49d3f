"""Find a person in images or a video: predictor, gallery, ranking, image of the result."""

from .errors import SearchInputError
from .frames import (
    Frame,
    ImageFolder,
    VideoFile,
    iterate_frames,
    open_frames,
    read_frames,
    read_image_bgr,
)
from .gallery import Gallery
from .predictor import PersonDetections, PersonQuery, PersonSearchPredictor
from .query import Match, box_warnings, clip_query_box, search
from .visualize import draw_search

__all__ = [
    "Frame",
    "Gallery",
    "ImageFolder",
    "Match",
    "PersonDetections",
    "PersonQuery",
    "PersonSearchPredictor",
    "SearchInputError",
    "VideoFile",
    "clip_query_box",
    "box_warnings",
    "draw_search",
    "iterate_frames",
    "open_frames",
    "read_frames",
    "read_image_bgr",
    "search",
]
