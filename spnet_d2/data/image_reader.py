"""The one image reader: training, evaluation, reports and search see the same pixels.

Every mode has one rule, and the result is always ``(H, W, 3)`` uint8, upright:

=============================  =====================================================
1, L, LA, P, PA, RGB, RGBA     grey and palettes are expanded; alpha is dropped (colours as stored)
CMYK, YCbCr, LAB, HSV          converted to RGB; Adobe's inverted CMYK is turned back
16 bits per channel            ``round(value / 257)``; where TIFF says that 0 is white, turned over
9 to 15 (JPEG 2000)            the same, by their own largest value
I (32-bit integer), F (float)  refused: these numbers have no agreed range
=============================  =====================================================

*Upright* means turned as EXIF orientation says, which is what viewers and annotation tools (CVAT,
labelme, VIA) show: boxes are in the frame of the upright image. Of several frames (TIFF, GIF, APNG)
the first one is read.
"""

import logging
import os
import re
import stat
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from spnet_d2.errors import UserError

logger = logging.getLogger(__name__)

# EXIF tag.
_ORIENTATION = 0x0112
# Pillow registers suffixes of these, but they are videos, or need programs or readers of their own.
_NO_IMAGES = {"BUFR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PCD", "WMF"}
# What a name says is an image, whether or not this installation can decode it.
_KNOWN_SUFFIXES = {".avif", ".heic", ".heif", ".hif", ".jxl"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_TIFF_SAMPLES = {1: "integers", 2: "integers", 3: "floating-point numbers"}
# JPEGs of some cameras have a few bytes of padding; more are what is left of damaged data.
_PADDING = 16
# Pillow's readers report damage in all of these ways.
_DAMAGE = (
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    EOFError,
    MemoryError,
    OverflowError,
    TypeError,
    AttributeError,
)
# Folders of which it was said that images are turned.
_turned_folders: set[str] = set()


class CorruptImageError(UserError, ValueError):
    """
    An image file that is cut off, damaged, of another kind, or of a mode that can't be used.

    Attributes:
        reason: what is wrong, without the name of the file.
    """

    reason = ""


@cache
def image_suffixes() -> tuple[str, ...]:
    """Suffixes of files that this installation can decode, lower case, sorted."""
    _open_heif()
    Image.init()
    formats = Image.registered_extensions()
    return tuple(sorted(s for s, f in formats.items() if f in Image.OPEN and f not in _NO_IMAGES))


def is_image_name(path: str | os.PathLike) -> bool:
    """Whether the suffix is that of an image, in upper or lower case.

    Images that need a decoder which is not installed count: reading them says which one.
    """
    suffix = Path(path).suffix.lower()
    return suffix in _KNOWN_SUFFIXES or suffix in image_suffixes()


def read_image(path: str | os.PathLike, refuse_damaged: bool = False) -> np.ndarray:
    """Read an image as ``(H, W, 3)`` uint8 RGB, upright, by the rules above.

    Args:
        path: the file.
        refuse_damaged: also refuse a JPEG in whose middle the decoder finds damage, which it goes
            on from with wrong colours (takes a second decoding, and the package ``simplejpeg``;
            nothing is looked for without it).

    Raises:
        FileNotFoundError: if there is none at ``path``.
        CorruptImageError: if the file is damaged, no image, or of a mode that is refused; also if
            it is no regular file (a pipe, a device).
        OSError: if the system doesn't let it be read.
    """
    try:
        _check_kind(path)
        with open(path, "rb") as file:
            return _decode(file, path, refuse_damaged)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"No image at {path}. Check DETECTRON2_DATASETS and the image folder of the data set "
            "(datasets/README.md shows the layout)."
        ) from None
    except CorruptImageError:
        raise
    # Those of the system have a number, and say nothing about the image.
    except OSError as error:
        raise OSError(f"Cannot read {path}: {error}.") from error


def decode_image(data: bytes, max_pixels: int | None = None) -> np.ndarray:
    """As :func:`read_image`, from a file's bytes.

    Args:
        data: all of the file.
        max_pixels: refuse images that have more by their header, before anything is decoded; None:
            Pillow's own limit.

    Raises:
        CorruptImageError: damaged, no image, of a mode that is refused, or too large.
    """
    return _decode(BytesIO(data), "the picture", max_pixels=max_pixels)


def _decode(
    file: BinaryIO,
    name: str | os.PathLike,
    refuse_damaged: bool = False,
    max_pixels: int | None = None,
) -> np.ndarray:
    """The image in an open file; ``name`` is for messages."""
    _open_heif()
    try:
        with Image.open(file) as image:
            _check_pixels(image, max_pixels)
            _say_once_if_several_frames(name, image)
            # First: reading a PNG's EXIF data decodes it.
            bits = _deep_colour(image, file)
            before = _orientation(image)
            if before > 1:
                _say_once_if_turned(os.path.dirname(name), name)
            if bits:
                return _upright(_read_deep_colour(file, bits), before)
            pixels = _eight_bits(image)
            # Pillow turns TIFF files itself.
            pixels = _upright(pixels, _orientation(image))
            if refuse_damaged and image.format in ("JPEG", "MPO"):
                _check_jpeg(file)
            return pixels
    except CorruptImageError as error:
        raise _corrupt(name, str(error), "") from None
    except _DAMAGE as error:
        # The system's: see read_image.
        if getattr(error, "errno", None) is not None:
            raise
        raise _corrupt(name, _reason(file, error), " Fetch the file again.") from error


def _check_kind(path: str | os.PathLike) -> None:
    """Refuse what has no end, or waits for a writer; folders are the system's to refuse."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise _corrupt(path, "it is no regular file, but a pipe or a device", "")


def _check_pixels(image: Image.Image, max_pixels: int | None) -> None:
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise CorruptImageError(
            f"it has {width} x {height} pixels, and {max_pixels / 1e6:.0f} million are the limit; "
            "send a smaller copy"
        )


def read_image_bgr(path: str | os.PathLike, refuse_damaged: bool = False) -> np.ndarray:
    """As :func:`read_image`, in OpenCV's order of channels."""
    return np.ascontiguousarray(read_image(path, refuse_damaged)[:, :, ::-1])


def _corrupt(path: str | os.PathLike, reason: str, advice: str) -> CorruptImageError:
    error = CorruptImageError(f"Cannot read {path} as an image ({reason}).{advice}")
    error.reason = reason
    return error


def stored_size_and_orientation(path: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """(height, width) of the file before it is turned, and its EXIF orientation, 1 to 8.

    From the header; errors as Pillow's, and as :func:`read_image` for what is no regular file.
    """
    _open_heif()
    _check_kind(path)
    with Image.open(path) as image:
        width, height = image.size
        orientation = _orientation(image)
        # Pillow gives the size of turned TIFF files.
        turned = image.format == "TIFF" and orientation >= 5
    return ((width, height) if turned else (height, width)), orientation


def count_turned(paths: Iterable[str | os.PathLike]) -> int:
    """How many images carry an EXIF orientation, from their headers; unreadable ones don't."""

    def turned(path: str | os.PathLike) -> bool:
        try:
            return stored_size_and_orientation(path)[1] > 1
        except Exception:  # whatever Pillow raises; reading the image will say what is wrong
            return False

    # Cold disks answer several requests at once much sooner than one after the other.
    with ThreadPoolExecutor(max_workers=8) as pool:
        return sum(pool.map(turned, paths))


def upright_size(path: str | os.PathLike) -> tuple[int, int]:
    """(width, height) of what :func:`read_image` gives, from the header; errors as Pillow's."""
    (height, width), orientation = stored_size_and_orientation(path)
    return (height, width) if orientation >= 5 else (width, height)


def wrong_size_message(file: str, stated: tuple[int, int], found: tuple[int, int]) -> str:
    """Why an image of ``found`` (height, width) does not fit annotations for ``stated``."""
    message = (
        f"{file}: the annotations are for an image of {stated[1]} x {stated[0]} pixels, found "
        f"{found[1]} x {found[0]}."
    )
    stored, orientation = stored_size_and_orientation(file)
    if orientation > 1 and stored == stated:
        return (
            f"{message} Its EXIF orientation is {orientation}, and the annotations are for the "
            "stored pixels, but images are read upright. Take the orientation out of all files "
            "of this data set (exiftool -Orientation= FILES), or annotate the upright images."
        )
    return (
        f"{message} Prepare the data set again with the images it was annotated on, turned "
        "upright as EXIF says."
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (as stored) where there is none or it can't be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data say nothing about the pixels
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation; the array itself for 1."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _eight_bits(image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        # Older Pillow reads 16-bit PNG into 32-bit integers.
        grey = _divide_by_257(np.asarray(image))
        # Pillow turns over those of 8 bits alone.
        grey = 255 - grey if _zero_is_white(image) else grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        kind = "32-bit integers" if mode == "I" else "floating-point numbers"
        raise CorruptImageError(
            f"its pixels are {kind} (mode {mode}), which have no agreed range; convert the file to "
            "8 or 16 bits per channel"
        )
    if mode in ("RGBa", "La"):
        image = image.convert(mode.upper())
    # A copy: torch refuses the read-only view.
    return np.array(image.convert("RGB"))


def _zero_is_white(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _divide_by_257(values: np.ndarray, bits: int = 16) -> np.ndarray:
    """16-bit values to 8 bits, rounded: 65535 is 255; those of fewer ``bits`` in the same way."""
    top = 2**bits - 1
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _deep_colour(image: Image.Image, file: BinaryIO) -> int:
    """Bits per channel where several channels have more than 8, of which Pillow keeps 8; else 0."""
    tile = getattr(image, "tile", None)
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA") or not tile:
        return 0
    if image.format == "JPEG2000":
        # Pillow's rounding turns the brightest values into 0.
        bits = _jpeg2000_bits(file)
        return bits if bits > 8 else 0
    arguments = tile[0][3]
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    return 16 if isinstance(raw, str) and ";16" in raw else 0


def _jpeg2000_bits(file: BinaryIO) -> int:
    """Bits of the deepest channel, by the codestream's marker of sizes (ISO/IEC 15444-1, A.5.1)."""
    data = _all_bytes(file)
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return 0
    # Behind the markers: lengths and sizes of 36 bytes, the number of channels, 3 bytes for each.
    channels = int.from_bytes(data[start + 40 : start + 42], "big")
    return max((depth & 0x7F for depth in data[start + 42 :][: 3 * channels : 3]), default=-1) + 1


def _read_deep_colour(file: BinaryIO, bits: int) -> np.ndarray:
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(_all_bytes(file), np.uint8), flags)
    if pixels is None or pixels.dtype != np.uint16:
        raise CorruptImageError("OpenCV can't decode its 16 bits per channel, or it is damaged")
    return _divide_by_257(np.ascontiguousarray(pixels[:, :, ::-1]), bits)


@cache
def _say_once(message: str) -> None:
    logger.warning(message)


def _say_once_if_turned(folder: str, path: str | os.PathLike) -> None:
    if folder not in _turned_folders:
        _turned_folders.add(folder)
        logger.warning(
            "Images of %s carry an EXIF orientation (%s is the first); boxes are taken for the "
            "upright images.",
            folder or ".",
            os.path.basename(path),
        )


def _say_once_if_several_frames(path: str | os.PathLike, image: Image.Image) -> None:
    # JPEGs of phones hold previews and depth maps (MPO), which nobody expects to be read.
    if image.format not in ("MPO", "ICO", "ICNS") and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", "several")
        _say_once(f"{path} holds {frames} frames; the first one is read.")


def _check_jpeg(file: BinaryIO) -> None:
    try:
        import simplejpeg
    except ImportError:
        return
    try:
        simplejpeg.decode_jpeg(_all_bytes(file), strict=True)
    except ValueError as error:
        message = str(error)
        extra = re.search(r"(\d+) extraneous bytes", message)
        if extra is None and "Corrupt JPEG data" in message:
            raise CorruptImageError(f"damaged in its middle: {message}") from error
        if extra is not None and int(extra[1]) > _PADDING:
            raise CorruptImageError(f"damaged in its middle: {message}") from error


@cache
def _open_heif() -> None:
    """Let Pillow read HEIC, where the package for it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def _tiff_samples(file: BinaryIO) -> str:
    """What a TIFF file states of its numbers; "" where it is none, or damaged."""
    file.seek(0)
    try:
        directory = ImageFileDirectory_v2(file.read(8))
        file.seek(directory.next)
        directory.load(file)
        (kind, *_), (bits, *_) = directory[SAMPLEFORMAT], directory[BITSPERSAMPLE]
    # As image readers report damage.
    except (SyntaxError, OSError, ValueError, KeyError, IndexError, TypeError, struct.error):
        return ""
    return f"{bits}-bit {_TIFF_SAMPLES.get(kind, 'numbers')}"


def _all_bytes(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _reason(file: BinaryIO, error: Exception) -> str:
    """What is wrong; for images whose decoder is not installed, how to get it."""
    head = _all_bytes(file)[:12]
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIC needs a decoder: pip install pillow-heif, or spnet_d2[heif]"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF needs Pillow 11.3 or newer, built with it"
    if not head:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        if samples := _tiff_samples(file):
            return (
                f"a TIFF file whose pixels are {samples}, which Pillow doesn't read; convert it to "
                "8 or 16 bits per channel"
            )
        return "it is of no image format that Pillow knows"
    return str(error) or type(error).__name__
