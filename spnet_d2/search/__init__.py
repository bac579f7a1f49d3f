"""Find a person in images or a video: predictor, gallery, ranking, drawing of the result."""

from importlib import import_module
from typing import TYPE_CHECKING

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
from .people import PersonDetections, PersonQuery
from .query import GalleryStore, Match, box_warnings, clip_query_box, search
from .two_stage import TwoStagePredictor
from .visualize import draw_search

if TYPE_CHECKING:
    from .predictor import PersonSearchPredictor

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
    "TwoStagePredictor",
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


# PyTorch and Detectron2 are imported for an SPNet as it was trained only.
def __getattr__(name: str):
    if name == "PersonSearchPredictor":
        return import_module("spnet_d2.search.predictor").PersonSearchPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
