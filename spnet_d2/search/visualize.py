"""The result of a search as one image: the query in its scene beside its matches, by OpenCV."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from spnet_d2.utils.text import printable

from .query import Match

# Frames by (file, number), or why there is none.
Frames = np.ndarray | Exception | str
Images = Mapping[tuple[str, int], Frames] | Iterable[tuple[tuple[str, int], Frames]]

# BGR.
WHITE = (255, 255, 255)
PAPER = (247, 247, 247)
INK = (40, 40, 40)
GREY = (120, 120, 120)
QUERY = (200, 110, 20)  # blue
NEUTRAL = (150, 150, 150)
HIT = (70, 150, 40)  # green
MISS = (50, 50, 215)  # red

MARGIN = 16
GAP = 12
BORDER = 4
CROP_SIZE = (140, 210)  # width, height of a person's panel
CAPTION = 42
COLUMNS = 5
# A sheet of more is too tall for most viewers.
MAX_CARDS = 100
QUERY_WIDTH = 420
QUERY_CROP_HEIGHT = 390
SMALL = 0.4

_FONT = cv2.FONT_HERSHEY_DUPLEX


def draw_search(
    query_image: np.ndarray,
    query_box: Sequence[float],
    matches: Sequence[Match],
    images: Images,
    hits: Sequence[bool] | None = None,
    query_name: str = "",
) -> np.ndarray:
    """
    Draw the query's scene and crop at the left, and a card for each match at the right.

    A card shows the person's crop, its scene with the box, rank, similarity, and where it is from;
    the reason in place of an image that can't be shown. ``MAX_CARDS`` are drawn at most.

    Args:
        query_image: (H, W, 3) BGR.
        query_box: xyxy in it.
        matches: of :func:`~.query.search`.
        images: the matches' frames by ``(file, frame)``, or why there is none; a mapping, or
            pairs that come one by one, so that one frame is in memory at a time.
        hits: for each match whether it is the right person, if that is known: green or red.
        query_name: what to call the query's image.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    query_panel = _query_panel(query_image, query_box)
    cards = _cards(matches[:MAX_CARDS], images, hits)
    title = f"{len(matches)} most similar people" if matches else "Nobody found"
    if hits is not None and matches:
        title += f": {sum(hits)} of {len(matches)} are the right person (green)"
    if len(matches) > MAX_CARDS:
        title += f"; the first {MAX_CARDS} are drawn"
    grid = (
        _grid(cards) if cards else _label_panel("No one in the gallery passes the limits.", 420, 80)
    )
    right = _stack([_line(title, grid.shape[1], 0.6, INK), grid])
    name = _shorten(f"Query: {query_name}" if query_name else "Query", QUERY_WIDTH, 0.6)
    left = _stack([_line(name, QUERY_WIDTH, 0.6, INK), query_panel])
    height = max(left.shape[0], right.shape[0])
    sheet = np.hstack(
        [
            _pad(left, height, left.shape[1]),
            np.full((height, 2 * GAP, 3), PAPER, np.uint8),
            _pad(right, height, right.shape[1]),
        ]
    )
    return cv2.copyMakeBorder(
        sheet, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=PAPER
    )


def draw_box(image: np.ndarray, box: Sequence[float], color, thickness: int = 2) -> np.ndarray:
    """A copy of ``image`` with one xyxy box around, not over, its content; white outside."""
    image = image.copy()
    # Clipped, so that all four sides are seen.
    last = np.array(image.shape[1::-1]) - 1
    low = np.clip(np.floor(box[:2]).astype(int) - thickness, 0, last)
    high = np.clip(np.ceil(box[2:]).astype(int) + thickness, 0, last)
    cv2.rectangle(image, low.tolist(), high.tolist(), WHITE, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(image, low.tolist(), high.tolist(), color, thickness, cv2.LINE_AA)
    return image


def crop_person(image: np.ndarray, box: Sequence[float], aspect: float) -> np.ndarray:
    """
    A person with a little of the surroundings.

    Args:
        image: (H, W, 3).
        box: xyxy.
        aspect: width / height that is filled up with surroundings, as far as the image goes.

    Returns:
        A view of the image, at least one pixel.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    h = 1.1 * max(y2 - y1, (x2 - x1) / aspect)
    w = h * aspect
    left = int(min(max((x1 + x2 - w) / 2, 0), width - 1))
    top = int(min(max((y1 + y2 - h) / 2, 0), height - 1))
    right = int(min(max(np.ceil((x1 + x2 + w) / 2), left + 1), width))
    bottom = int(min(max(np.ceil((y1 + y2 + h) / 2), top + 1), height))
    return image[top:bottom, left:right]


def _query_panel(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    width = QUERY_WIDTH - 2 * BORDER
    scene, scale = _fit(image, width, QUERY_WIDTH)
    scene = draw_box(scene, [v * scale for v in box], QUERY, 3)
    scene = _frame(_pad(scene, scene.shape[0], width, center=True), QUERY)
    size = (round(QUERY_CROP_HEIGHT * CROP_SIZE[0] / CROP_SIZE[1]), QUERY_CROP_HEIGHT)
    return _stack([scene, _frame(_person(image, box, size), QUERY)])


def _cards(
    matches: Sequence[Match], images: Images, hits: Sequence[bool] | None
) -> list[np.ndarray]:
    """Cards of the matches, in their order, made as the frames come."""
    of_frame: dict[tuple[str, int], list[int]] = {}
    for i, match in enumerate(matches):
        of_frame.setdefault((match.file, match.frame), []).append(i)
    missing = "no image"
    cards: dict[int, np.ndarray] = {}
    for place, image in images.items() if isinstance(images, Mapping) else images:
        for i in of_frame.pop(place, ()):
            color = NEUTRAL if hits is None else (HIT if hits[i] else MISS)
            cards[i] = _card(matches[i], image, color)
    for places in of_frame.values():
        cards |= {i: _card(matches[i], missing, NEUTRAL) for i in places}
    return [cards[i] for i in range(len(matches))]


def _card(match: Match, image: np.ndarray | Exception | str, color) -> np.ndarray:
    width, height = CROP_SIZE
    if not isinstance(image, np.ndarray):
        return _with_caption(match, _frame(_reason_panel(str(image)), NEUTRAL))
    scene, scale = _fit(image, width, height)
    small_box = [v * scale for v in match.box]
    scene = draw_box(scene, small_box, QUERY if color == NEUTRAL else color)
    scene = _pad(scene, max(scene.shape[0], round(width * 0.75)), width, center=True)
    line = np.full((3, width, 3), color, np.uint8)
    body = _frame(np.vstack([_person(image, match.box, CROP_SIZE), line, scene]), color)
    return _with_caption(match, body)


def _reason_panel(reason: str) -> np.ndarray:
    """In place of a person: why there is no image."""
    width, height = CROP_SIZE
    panel = np.full((height + round(width * 0.75), width, 3), WHITE, np.uint8)
    lines = textwrap.wrap(reason, 16)[: height // 14]
    for i, line in enumerate(lines):
        _text(panel, line, (4, 20 + 16 * i), SMALL, MISS)
    return panel


def _with_caption(match: Match, body: np.ndarray) -> np.ndarray:
    caption = np.full((CAPTION, body.shape[1], 3), PAPER, np.uint8)
    _text(caption, f"{match.rank}.", (0, 16), 0.55, INK)
    value = f"{match.similarity:.3f}"
    _text(caption, value, (body.shape[1] - _text_width(value, 0.5), 16), 0.5, INK)
    _text(caption, _whence(match, body.shape[1]), (0, 35), SMALL, GREY)
    return np.vstack([caption, body])


def _person(image: np.ndarray, box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The person in a panel of ``size`` (width, height), letterboxed at the image's edges."""
    crop = _fit(crop_person(image, box, size[0] / size[1]), *size)[0]
    if max(size[0] - crop.shape[1], size[1] - crop.shape[0]) <= 4:
        # Crops have whole pixels, so their aspect is off by a little.
        return cv2.resize(crop, size)
    return _pad(crop, size[1], size[0], center=True)


def _whence(match: Match, width: int) -> str:
    if match.time is not None:
        minutes, seconds = divmod(match.time, 60)
        return f"frame {match.frame}   {int(minutes)}:{seconds:04.1f}"
    return _shorten(Path(match.file).name, width, SMALL)


def _grid(cards: list[np.ndarray]) -> np.ndarray:
    columns = min(COLUMNS, len(cards))
    rows = []
    for start in range(0, len(cards), columns):
        row = cards[start : start + columns]
        height = max(card.shape[0] for card in row)
        cells = []
        for card in row:
            cells += [_pad(card, height, card.shape[1]), np.full((height, GAP, 3), PAPER, np.uint8)]
        rows.append(np.hstack(cells[:-1]))
    return _stack(rows)


def _stack(parts: list[np.ndarray]) -> np.ndarray:
    """Parts below one another, left-aligned, with a gap."""
    width = max(part.shape[1] for part in parts)
    gap = np.full((GAP, width, 3), PAPER, np.uint8)
    spaced = [piece for part in parts for piece in (_pad(part, part.shape[0], width), gap)]
    return np.vstack(spaced[:-1])


def _pad(image: np.ndarray, height: int, width: int, center: bool = False) -> np.ndarray:
    down, right = height - image.shape[0], width - image.shape[1]
    top, left = (down // 2, right // 2) if center else (0, 0)
    return cv2.copyMakeBorder(
        image, top, down - top, left, right - left, cv2.BORDER_CONSTANT, value=PAPER
    )


def _frame(image: np.ndarray, color) -> np.ndarray:
    width = BORDER
    return cv2.copyMakeBorder(image, width, width, width, width, cv2.BORDER_CONSTANT, value=color)


def _fit(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float]:
    """Scale into width x height, keeping the aspect ratio; also the factor."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way), scale


def _line(text: str, width: int, size: float, color) -> np.ndarray:
    line = np.full((24, max(width, _text_width(text, size) + 4), 3), PAPER, np.uint8)
    _text(line, text, (0, 17), size, color)
    return line


def _label_panel(text: str, width: int, height: int) -> np.ndarray:
    panel = np.full((height, width, 3), PAPER, np.uint8)
    _text(panel, text, (0, height // 2), 0.55, GREY)
    return panel


def _text(image, text: str, origin, size: float, color) -> None:
    cv2.putText(image, _ascii(text), origin, _FONT, size, color, 1, cv2.LINE_AA)


def _text_width(text: str, size: float) -> int:
    return cv2.getTextSize(_ascii(text), _FONT, size, 1)[0][0]


def _shorten(text: str, width: int, size: float) -> str:
    """Drop characters from the middle until the text is narrow enough."""
    if _text_width(text, size) <= width:
        return text
    for keep in range(len(text) - 1, 2, -1):
        short = f"{text[: keep // 2]}..{text[len(text) - (keep + 1) // 2 :]}"
        if _text_width(short, size) <= width:
            return short
    return ".."


def _ascii(text: str) -> str:
    """OpenCV's fonts have ASCII only."""
    return printable(text).encode("ascii", "replace").decode()
