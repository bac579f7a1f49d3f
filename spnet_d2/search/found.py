"""What one search of one source found: its report, its table and its drawing."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from spnet_d2.data.geometry import xyxy_to_xywh
from spnet_d2.data.own_images import write_own_image
from spnet_d2.errors import SearchInputError
from spnet_d2.utils.atomic_io import write_text
from spnet_d2.utils.text import printable

from .frames import describe_left_out
from .gallery import Gallery
from .query import Match, box_to_json
from .suggestion import Suggestion
from .visualize import MAX_CARDS, draw_search

REPORT, DRAWING = "matches.json", "search.png"


def make_folder(folder: Path) -> None:
    """
    A folder for results, before anything slow begins.

    Raises:
        SearchInputError: it can't be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not only there, but to be written to.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SearchInputError(f"Cannot write to the folder {folder}: {error}") from error


@dataclass(frozen=True)
class SceneFilter:
    """
    What was left out by scores of scenes.

    Attributes:
        least: score.
        frames, people: of the whole index.
        seconds: that the scores took.
    """

    least: float
    frames: int
    people: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """
    Attributes:
        query: file of the query's image.
        image: (H, W, 3) BGR, the query's scene.
        box: xyxy of the person in it.
        gallery: who was compared.
        matches: most similar first.
        suggestion: similarity below which matches are marked.
        scenes: frames of the gallery are those that it left.
    """

    query: Path
    image: np.ndarray
    box: tuple[float, float, float, float]
    gallery: Gallery
    matches: list[Match]
    suggestion: Suggestion | None = None
    scenes: SceneFilter | None = None

    def to_json(self) -> dict:
        """Content of matches.json."""
        gallery = self.gallery
        return {
            "boxes": "pixels of the upright image (EXIF orientation applied), from its top left "
            "corner",
            "query": {"file": str(self.query), **box_to_json(self.box)},
            "gallery": {
                "source": gallery.source,
                "frames": gallery.num_frames,
                "people": len(gallery),
                "every": gallery.every,
                "min_score": gallery.min_score,
                "skipped": gallery.skipped.tolist(),
                "left_out": json.loads(gallery.left_out),
            },
            "scene_filter": self.scenes and asdict(self.scenes),
            "suggested_min_similarity": self.suggestion and self.suggestion.similarity,
            "matches": [match.to_json() for match in self.matches],
        }

    def write_report(self, folder: Path) -> None:
        """matches.json."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
        write_text(folder / REPORT, text + "\n")

    def lines(self) -> list[str]:
        """What was searched, and the matches as a table."""
        gallery = self.gallery
        lines = [f"{len(gallery)} people in {gallery.num_frames} frames of {gallery.source}"]
        if self.scenes:
            lines.append(
                f"of {self.scenes.people} people in {self.scenes.frames} frames: scenes below "
                f"{self.scenes.least:g} were left out, by scores that took "
                f"{1e3 * self.scenes.seconds:.1f} ms"
            )
        if len(gallery.skipped):
            lines.append(f"{len(gallery.skipped)} unreadable images were skipped")
        left_out = json.loads(gallery.left_out)
        if left_out:
            lines.append(f"not searched: {describe_left_out(left_out)}")
        if not self.matches:
            return [*lines, "no match"]
        headers = ["rank", "similarity", "frame", "where", "x", "y", "w", "h"]
        rows = [self._row(match) for match in self.matches]
        lines.append(tabulate(rows, headers, disable_numparse=True, stralign="right"))
        if self.suggestion:
            below = self.suggestion.similarity
            number = sum(match.similarity < below for match in self.matches)
            lines.append(
                f"{number} of {len(self.matches)} are below {below:.3f} (*), the suggested "
                f"threshold of {self.suggestion.source}; --min-similarity {below:.3f} leaves them "
                "out"
            )
        return lines

    def _row(self, match: Match) -> list:
        below = self.suggestion.similarity if self.suggestion else -1.0
        mark = "*" if match.similarity < below else " " if self.suggestion else ""
        box = np.rint(xyxy_to_xywh([match.box])[0]).astype(int)
        when = f"{match.time:.2f} s" if match.time is not None else printable(Path(match.file).name)
        return [match.rank, f"{match.similarity:.3f}{mark}", match.frame, when, *box]

    def draw(self, folder: Path) -> list[str]:
        """Write search.png; which of its images are gone or changed, [] for none."""
        missing = []

        def images():
            shown = self.matches[:MAX_CARDS]
            for place, found in self.gallery.read_again((m.file, m.frame) for m in shown):
                if isinstance(found, SearchInputError):
                    missing.append(str(found))
                yield place, found

        sheet = draw_search(
            self.image, self.box, self.matches, images(), query_name=self.query.name
        )
        write_own_image(folder / DRAWING, sheet)
        return missing
