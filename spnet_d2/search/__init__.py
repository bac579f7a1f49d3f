"""Find a person in images or a video: predictor, gallery, ranking, image of the result."""

from spnet_d2.errors import SearchInputError

from .frames import (
    Frame,
    ImageFolder,
    VideoFile,
    iterate_frames,
    open_frames,
    read_frames,
    read_image_bgr,
)
from .gallery import Gallery, gallery_for, open_gallery
from .predictor import PersonDetections, PersonQuery, PersonSearchPredictor
from .query import GalleryStore, Match, box_warnings, clip_query_box, search
from .visualize import draw_search

__all__ = [
    "Frame",
    "Gallery",
    "GalleryStore",
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
    "gallery_for",
    "iterate_frames",
    "open_frames",
    "open_gallery",
    "read_frames",
    "read_image_bgr",
    "search",
]
