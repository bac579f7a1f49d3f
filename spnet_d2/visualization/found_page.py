"""The hits of a search as one HTML page that needs no network and no server."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from spnet_d2.gallery import GalleryError
from spnet_d2.gallery.finding import Sighting, by_camera
from spnet_d2.ingestion import GalleryHome
from spnet_d2.ingestion.thumbnails import make_thumbnail
from spnet_d2.search.query import box_to_json
from spnet_d2.utils.atomic_io import write_text

# Scenes are the page's weight: the best hits have theirs, the others a crop.
MAX_SCENES = 24
_SCENE_WIDTH = 480
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Person search: {count} hits</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif; }}
body {{ max-width: 84rem; margin: 1.5rem auto; padding: 0 1rem; }}
ul {{ list-style: none; padding: 0; display: grid; gap: .8rem;
      grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }}
li {{ border: 1px solid #8886; border-radius: .4rem; overflow: hidden; font-size: .85rem; }}
li > div {{ padding: .3rem .5rem; overflow-wrap: anywhere; }}
.crop {{ width: 100%; height: 11rem; object-fit: contain; background: #8882; display: block; }}
.scene {{ width: 100%; display: block; }}
.not {{ border-color: #c33; }}
.track {{ display: grid; grid-template-columns: 8rem 1fr; gap: .6rem; align-items: center;
          font-size: .85rem; }}
svg {{ width: 100%; height: 1.8rem; }}
svg line {{ stroke: #888; }}
svg circle {{ fill: #1d6fd8; }}
strong {{ font-variant-numeric: tabular-nums; }}
</style>
<h1>Person search</h1>
<p>{verdict} Similar looks, not identity: check each hit.</p>
<h2>Looked for</h2>
<ul>{queries}</ul>
{timeline}
<h2>{count} hits, most similar first</h2>
<ul>{hits}</ul>
</html>
"""


@dataclass(frozen=True, eq=False)
class Query:
    """
    A picture that was searched with.

    Attributes:
        name: of the file or row.
        embedding: (D,).
        negative: it is not the person.
        image: (H, W, 3) uint8 BGR, and the person's box xyxy in it; or
        thumbnail: JPEG, for a row of the gallery.
    """

    name: str
    embedding: np.ndarray
    negative: bool = False
    image: np.ndarray | None = None
    box: tuple[float, ...] | None = None
    thumbnail: bytes | None = None

    def to_json(self) -> dict:
        place = {} if self.box is None else box_to_json(self.box)
        return {"name": self.name, "negative": self.negative, **place}


class FoundPage:
    """
    Args:
        home: the gallery, for crops and scenes.
        queries: what was searched with.
        hits: most similar first.
        verdict: a sentence about all of them.
    """

    def __init__(
        self, home: GalleryHome, queries: Sequence[Query], hits: Sequence[Sighting], verdict: str
    ):
        self._home = home
        self._queries = queries
        self._hits = hits
        self._verdict = verdict

    def write(self, path: Path, probabilities: Sequence[float | None]) -> None:
        """
        Write it.

        Args:
            path: of the HTML file.
            probabilities: of each hit; None where not calibrated.
        """
        hits = [
            self._hit(n, hit, chance)
            for n, (hit, chance) in enumerate(zip(self._hits, probabilities), start=1)
        ]
        page = _PAGE.format(
            count=len(self._hits),
            verdict=escape(self._verdict),
            queries="".join(map(_query, self._queries)),
            timeline=_timeline(self._hits),
            hits="".join(hits),
        )
        write_text(path, page)

    def _hit(self, rank: int, hit: Sighting, chance: float | None) -> str:
        crop = self._home.thumbnails.read(hit.thumbnail)
        image = _image(crop, "crop", f"hit {rank}") if crop else ""
        scene = self._scene(hit, rank) if rank <= MAX_SCENES else ""
        likely = "" if chance is None else f", about {chance:.0%} likely right"
        source = f"<br>{escape(hit.source)}" if hit.source != hit.camera else ""
        rows = f"<br>{hit.rows} pictures of this appearance" if hit.rows > 1 else ""
        return (
            f"<li>{image}<div>{rank}. <strong>{hit.similarity:.3f}</strong>{likely}<br>"
            f"{escape(hit.camera)}, {escape(self._home.when(hit))}{source}{rows}</div>{scene}</li>"
        )

    def _scene(self, hit: Sighting, rank: int) -> str:
        try:
            image = self._home.scene_image(hit.source, hit.frame)
        except GalleryError as error:
            return f"<div>No scene: {escape(str(error))}</div>"
        return _image(_scene_with_box(image, hit.box), "scene", f"scene of hit {rank}")


def _query(query: Query) -> str:
    crop, scene = query.thumbnail, ""
    if query.image is not None and query.box is not None:
        crop = make_thumbnail(query.image, query.box)
        scene = _image(_scene_with_box(query.image, query.box), "scene", f"scene of {query.name}")
    image = _image(crop, "crop", query.name) if crop else ""
    kind = "not the person" if query.negative else "the person"
    css = ' class="not"' if query.negative else ""
    return f"<li{css}>{image}<div>{escape(query.name)}: {kind}</div>{scene}</li>"


def _scene_with_box(image: np.ndarray, box: Sequence[float]) -> bytes:
    scale = min(1.0, _SCENE_WIDTH / image.shape[1])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = (round(v * scale) for v in box)
    cv2.rectangle(small, (x1, y1), (x2, y2), (0, 0, 0), 4)
    cv2.rectangle(small, (x1, y1), (x2, y2), (80, 220, 80), 2)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def _image(data: bytes, css: str, text: str) -> str:
    source = f"data:image/jpeg;base64,{b64encode(data).decode()}"
    return f'<img class="{css}" alt="{escape(text)}" src="{source}">'


def _timeline(hits: Sequence[Sighting]) -> str:
    dated = [hit for hit in hits if hit.time]
    if len(dated) < 2:
        return ""
    times = [hit.time.timestamp() for hit in dated if hit.time]
    first, last = min(times), max(times)
    tracks = []
    for camera, of_camera in by_camera(dated).items():
        dots = "".join(
            f'<circle cx="{_place(hit, first, last):.2f}%" cy="50%" r="5"><title>'
            f"{hit.time:%Y-%m-%d %H:%M:%S}, {hit.similarity:.3f}</title></circle>"
            for hit in of_camera
        )
        bar = '<line x1="0" x2="100%" y1="50%" y2="50%"/>'
        tracks.append(
            f'<div class="track"><span>{escape(camera)}</span><svg>{bar}{dots}</svg></div>'
        )
    ends = sorted(dated, key=lambda hit: hit.time.timestamp() if hit.time else 0)
    span = f"{ends[0].time:%Y-%m-%d %H:%M:%S} to {ends[-1].time:%Y-%m-%d %H:%M:%S} (UTC)"
    return f"<h2>Time line</h2>{''.join(tracks)}<p>{span}</p>"


def _place(hit: Sighting, first: float, last: float) -> float:
    assert hit.time is not None
    if last <= first:
        return 50.0
    return 1 + 98 * (hit.time.timestamp() - first) / (last - first)
