"""What inputs are made from: whole ones, and strategies that spoil them."""

import io
import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image, features

SIZE = (640, 480)
# Numbers, texts and containers that no field expects, and some that several do.
ODD = st.sampled_from(
    [None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**400, 0.5, -0.5, 1e300, float("nan")]
    + [float("inf"), "", "1", "person", "../x", "a\0b", "\ud800", [], {}, [1], [[1]], {"id": 1}]
    + [[0, 0, 0, 0], [1e300] * 4, [10, 10, -5, 5], ["1", 2, 3, 4], [None] * 4]
)


@st.composite
def damaged(draw: Callable, content: bytes) -> bytes:
    """Bytes overwritten, cut out, put in, or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["overwrite", "overwrite", "cut", "insert", "end"]))
        if how == "overwrite":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
        elif how == "cut":
            del data[place : place + draw(st.integers(1, 64))]
        elif how == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=16))
        else:
            del data[place:]
    return bytes(data)


def _places(content, path=()):
    """Paths to everything inside of nested lists and objects."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


@st.composite
def spoilt(draw: Callable, content: dict) -> dict:
    """A JSON object in which values are odd, missing, repeated, or of another place."""
    content = deepcopy(content)
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(content))
        if not places:
            break
        *path, key = places[draw(st.integers(0, len(places) - 1))]
        inside = content
        for step in path:
            inside = inside[step]
        how = draw(st.sampled_from(["odd", "odd", "odd", "remove", "repeat"]))
        if how == "odd":
            inside[key] = deepcopy(draw(ODD))
        elif how == "remove":
            del inside[key]
        elif isinstance(inside, list):
            inside.insert(key, deepcopy(inside[key]))
    return content


def partition(seed: int = 0, images: int = 3, people: int = 8) -> dict:
    """A person-search file: people all over their images."""
    rng = np.random.default_rng(seed)
    count = images * people
    extents = rng.uniform((20, 60), (60, 150), (count, 2))
    boxes = np.concatenate([rng.uniform(0, 1, (count, 2)) * (SIZE - extents), extents], axis=1)
    return {
        "images": [
            {"id": i, "file_name": f"c/{i}.jpg", "width": SIZE[0], "height": SIZE[1], "cam_id": -1}
            for i in range(images)
        ],
        "annotations": [
            {
                "id": 10 + i,
                "image_id": i % images,
                "bbox": box,
                "person_id": i // images,
                "is_known": True,
                "iou_thresh": 0.5,
                "category_id": 1,
                "iscrowd": 0,
            }
            for i, box in enumerate(boxes.tolist())
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    }


@st.composite
def json_text(draw: Callable, content: dict) -> bytes:
    """A spoilt object as text, at times damaged."""
    text = json.dumps(draw(spoilt(content))).encode("utf-8", "surrogatepass")
    return draw(damaged(text)) if draw(st.integers(0, 4)) == 0 else text


@cache
def images() -> dict[str, bytes]:
    """A small image in every format, by suffix."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (24, 32), dtype=np.uint16))
    written = {}

    def write(suffix: str, image: Image.Image, form: str, **options) -> None:
        file = io.BytesIO()
        image.save(file, form, **options)
        written[suffix] = file.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    write("jpg", rgb, "JPEG", exif=turned)
    write("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    write("progressive.jpg", rgb, "JPEG", progressive=True)
    write("png", rgb, "PNG")
    write("16.png", deep, "PNG")
    write("palette.png", rgb.convert("P"), "PNG")
    write("alpha.png", rgb.convert("RGBA"), "PNG")
    write("bmp", rgb, "BMP")
    write("gif", rgb, "GIF", save_all=True, append_images=[rgb.convert("L")])
    write("tif", deep, "TIFF")
    write("lzw.tif", rgb, "TIFF", compression="tiff_lzw")
    write("float.tif", deep.convert("F"), "TIFF")
    write("ppm", rgb, "PPM")
    if features.check("webp"):
        write("webp", rgb, "WEBP")
    if features.check("jpg_2000"):
        write("jp2", rgb, "JPEG2000")
    return written


@cache
def videos() -> dict[str, bytes]:
    """A video of ten frames in every container that OpenCV writes here, by suffix."""
    written = {}
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
    with TemporaryDirectory() as folder:
        for suffix, codec in (("avi", "MJPG"), ("mp4", "mp4v")):
            path = Path(folder) / f"video.{suffix}"
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (64, 48))
            for frame in frames:
                writer.write(frame)
            writer.release()
            if path.is_file() and path.stat().st_size:
                written[suffix] = path.read_bytes()
    return written


def torch_file(content: object, archive: bool = True) -> bytes:
    """A file of ``torch.save``, as an archive or as older versions wrote it."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()
