"""Cameras, archives and streams into a gallery: sources, units of work, and their folder."""

from .home import GalleryHome
from .run import Options, Progress, index_sources
from .sources import Source, parse_source, read_cameras

__all__ = [
    "GalleryHome",
    "Options",
    "Progress",
    "Source",
    "index_sources",
    "parse_source",
    "read_cameras",
]
