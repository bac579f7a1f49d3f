"""Find a person in pictures or a video: predictor, gallery, ranking, picture of the result."""

from .errors import SearchInputError
from .frames import Frame, ImageFolder, VideoFile, open_frames, read_frames, read_picture
from .gallery import Gallery
from .predictor import PersonDetections, PersonQuery, PersonSearchPredictor
from .query import Match, clip_query_box, search
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
    "draw_search",
    "open_frames",
    "read_frames",
    "read_picture",
    "search",
]
