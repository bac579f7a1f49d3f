"""Gallery Filter Network: which gallery scenes can show a query's person.

Jaffe and Zakhor, "Gallery Filter Network for Person Search", WACV 2023. A scene (a whole image) has
an embedding as people have. Seen through a query, the embeddings of two scenes that show the same
people are similar; that similarity, as a score, weighs the query's matches in a gallery scene.
"""

from .network import GalleryFilter, build_gallery_filter

__all__ = ["GalleryFilter", "build_gallery_filter"]
