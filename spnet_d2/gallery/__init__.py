"""Galleries: millions of people on disk or in a cluster, found by similarity."""

from .address import create_gallery, open_gallery
from .errors import GalleryError
from .filter import EVERYBODY, Filter
from .people import People
from .store import GallerySettings, GalleryStore, Hits

__all__ = [
    "EVERYBODY",
    "Filter",
    "GalleryError",
    "GallerySettings",
    "GalleryStore",
    "Hits",
    "People",
    "create_gallery",
    "open_gallery",
]
