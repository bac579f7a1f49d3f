"""One reader, one rule per mode, one frame of coordinates."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import spnet_d2
from spnet_d2.data import image_reader
from spnet_d2.data.image_reader import (
    CorruptImageError,
    image_suffixes,
    is_image_name,
    read_image,
    read_image_bgr,
    upright_size,
)

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (24, 36, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (24, 36), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (24, 36, 3), dtype=np.uint16)


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def rounded(deep):
    return np.rint(deep / 257.0).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_usual_files_are_what_pillow_decodes(tmp_path, suffix, mode):
    path = save(tmp_path / f"a{suffix}", COLOUR if mode == "RGB" else GREY)
    image = read_image(path)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image, np.asarray(opened.convert("RGB")))
    assert image.dtype == np.uint8 and image.flags.writeable and image.flags.c_contiguous
    np.testing.assert_array_equal(read_image_bgr(path), image[:, :, ::-1])


def test_one_bit_palette_and_alpha(tmp_path):
    grey = np.repeat(GREY[:, :, None], 3, 2)
    alpha = np.where(GREY > 90, 255, 40).astype(np.uint8)
    bits = Image.fromarray(GREY > 127)
    np.testing.assert_array_equal(
        read_image(save(tmp_path / "1.png", bits)), np.where(grey > 127, 255, 0)
    )
    # Alpha is dropped: the colours as stored.
    for name, layers, want in (
        ("la.png", np.dstack([GREY, alpha]), grey),
        ("rgba.png", np.dstack([COLOUR, alpha]), COLOUR),
        ("rgba.tif", np.dstack([COLOUR, alpha]), COLOUR),
    ):
        np.testing.assert_array_equal(read_image(save(tmp_path / name, layers)), want)
    palette = Image.fromarray(COLOUR).quantize(50)
    want = np.asarray(palette.convert("RGB"))
    save(tmp_path / "p.png", palette)
    save(tmp_path / "transparent.png", palette, transparency=3)
    save(tmp_path / "p.gif", palette)
    for name in ("p.png", "transparent.png", "p.gif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), want)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_divided_by_257(tmp_path, name):
    cv2.imwrite(str(tmp_path / name), DEEP[:, :, 0])
    want = np.repeat(rounded(DEEP[:, :, :1]), 3, 2)
    np.testing.assert_array_equal(read_image(tmp_path / name), want)


@pytest.mark.parametrize(("order", "zero_is_white"), [("<", False), (">", False), ("<", True)])
def test_16_bit_grey_tiff_of_either_byte_order(tmp_path, order, zero_is_white):
    photometric = 0 if zero_is_white else 1
    tags = {
        256: 36,
        257: 24,
        258: 16,
        259: 1,
        262: photometric,
        273: 0,
        277: 1,
        278: 24,
        279: 36 * 24 * 2,
    }
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, v) for tag, v in tags.items())
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    data = DEEP[:, :, 0].astype(f"{order}u2").tobytes()
    (tmp_path / "a.tif").write_bytes(head + directory + data)
    image, want = read_image(tmp_path / "a.tif"), rounded(DEEP[:, :, 0])
    np.testing.assert_array_equal(image[:, :, 0], 255 - want if zero_is_white else want)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_divided_by_257(tmp_path, name, channels):
    cv2.imwrite(str(tmp_path / name), np.dstack([DEEP, DEEP[:, :, :1]])[:, :, :channels])
    np.testing.assert_array_equal(read_image(tmp_path / name), rounded(DEEP[:, :, ::-1]))


@pytest.mark.parametrize("channels", [3, 4])
def test_the_brightest_colours_of_jpeg_2000(tmp_path, channels):
    """Pillow makes 65535 a 256, which is 0 in 8 bits: white people in black."""
    scene = np.zeros((40, 60, 4), np.uint16)
    scene[8:32, 8:32], scene[:3, :3] = 65535, 257 * np.uint16([10, 100, 200, 30])
    cv2.imwrite(str(tmp_path / "a.jp2"), scene[:, :, :channels])
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2"), rounded(scene[:, :, 2::-1]))


def test_jpeg_2000_of_8_bits_and_grey(tmp_path):
    path = save(tmp_path / "a.jp2", COLOUR)
    np.testing.assert_array_equal(read_image(path), COLOUR)
    grey = np.uint16([[0, 65535], [257, 25700]]).repeat(32, 0).repeat(32, 1)
    cv2.imwrite(str(tmp_path / "grey.jp2"), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.jp2")[:, :, 0], rounded(grey))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_netpbm_of_any_depth(tmp_path, bits, colour):
    top = 2**bits - 1
    pixels = COLOUR if colour else GREY
    data = (pixels.astype(np.uint32) * top // 255).astype(">u2" if bits > 8 else np.uint8)
    head = f"P{6 if colour else 5} 36 24 {top}\n".encode()
    (tmp_path / "a.pnm").write_bytes(head + data.tobytes())
    found = read_image(tmp_path / "a.pnm").astype(int)
    assert np.abs(found - (pixels if colour else pixels[:, :, None])).max() <= 1


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("read", [read_image, read_image_bgr, upright_size])
def test_pipes_and_devices_are_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "endless.png"):
        with pytest.raises(CorruptImageError, match=f"{name} as an image .it is no regular file"):
            read(tmp_path / name)


def test_16_bit_grey_with_alpha(tmp_path):
    """Neither library writes it: a PNG of colour type 4."""
    cv2.imwrite(str(tmp_path / "rgba.png"), np.dstack([DEEP[:, :, [0, 0, 0]], DEEP[:, :, :1]]))
    want = np.repeat(rounded(DEEP[:, :, :1]), 3, 2)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), want)


def test_cmyk_and_other_colour_spaces(tmp_path):
    red = Image.new("RGB", (20, 10), (220, 30, 40))
    for name in ("a.jpg", "a.tif"):
        path = save(tmp_path / name, red.convert("CMYK"))
        np.testing.assert_allclose(read_image(path), np.asarray(red), atol=4)
    # OpenCV, too, turns Adobe's inverted inks back.
    np.testing.assert_allclose(cv2.imread(str(tmp_path / "a.jpg"))[:, :, ::-1], red, atol=8)
    lab = Image.new("LAB", (20, 10), (255, 128, 128))
    np.testing.assert_allclose(read_image(save(tmp_path / "lab.tif", lab)), 255, atol=2)
    ycc = save(tmp_path / "ycc.tif", red.convert("YCbCr"))
    np.testing.assert_allclose(read_image(ycc), np.asarray(red), atol=4)


@pytest.mark.parametrize("dtype, kind", [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_numbers_without_a_range_are_refused_by_name(tmp_path, dtype, kind):
    path = save(tmp_path / "a.tif", Image.fromarray(GREY.astype(dtype)))
    with pytest.raises(CorruptImageError, match=rf"a\.tif.*{kind}.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("pixels", [COLOUR / np.float32(255), GREY / 255])
def test_floating_point_tiff_that_pillow_does_not_open(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / "a.tif"), pixels)
    bits = 8 * pixels.itemsize
    with pytest.raises(
        CorruptImageError, match=rf"a\.tif.*{bits}-bit floating-point.*8 or 16 bits"
    ):
        read_image(tmp_path / "a.tif")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:30])
    with pytest.raises(CorruptImageError, match=r"cut\.tif"):
        read_image(tmp_path / "cut.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif", ".webp", "deep.png"])
def test_images_are_upright(tmp_path, kind, orientation):
    """Stored so that the orientation makes the scene of it: dark left half, bright upper right."""
    scene = np.zeros((32, 48, 3), np.uint8)
    scene[:16, 24:] = 255
    # What undoes each orientation, applied backwards.
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: np.rot90(scene, 1),
        7: np.rot90(scene, 2).transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{kind}"
    if kind == "deep.png":
        write_deep_png(path, stored, exif)
    else:
        save(path, np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_allclose(read_image(path).astype(int), scene, atol=40)
    assert upright_size(path) == (48, 32)


def write_deep_png(path, pixels, exif):
    """A 16-bit PNG with an eXIf chunk."""
    ok, data = cv2.imencode(".png", np.ascontiguousarray(pixels).astype(np.uint16) * 257)
    assert ok
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + body
    chunk = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = data.tobytes()
    path.write_bytes(data[:33] + chunk + data[33:])


def test_orientation_is_said_once_per_folder(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("a.jpg", "b.jpg"):
        read_image(save(tmp_path / name, COLOUR, exif=exif))
    assert caplog.text.count("carry an EXIF orientation") == 1
    assert "boxes are taken for the upright images" in caplog.text


def test_damaged_exif_is_no_damaged_image(tmp_path):
    save(tmp_path / "a.jpg", COLOUR, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read_image(tmp_path / "a.jpg").shape == COLOUR.shape


def test_first_of_several_frames(tmp_path, caplog):
    frames = [Image.new("RGB", (9, 7), (c, c, c)) for c in (10, 200)]
    for name in ("a.gif", "a.tif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        for _ in range(2):
            np.testing.assert_allclose(read_image(tmp_path / name), 10, atol=2)
        assert caplog.text.count(f"{name} holds 2 frames; the first one is read") == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".gif"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_cut_off_files_are_refused(tmp_path, suffix, share):
    path = save(tmp_path / f"a{suffix}", np.tile(COLOUR, (8, 8, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CorruptImageError, match=rf"Cannot read .*a\{suffix}"):
        read_image(path)


def test_damage_in_the_middle_of_a_jpeg(tmp_path):
    pytest.importorskip("simplejpeg", reason="simplejpeg is not installed (extra jpeg)")
    image = cv2.resize(COLOUR, (640, 480), interpolation=cv2.INTER_CUBIC)
    path = save(tmp_path / "a.jpg", image, quality=95, subsampling=0)
    read_image(path, refuse_damaged=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(range(1, 201)) * 2
    path.write_bytes(data)
    with pytest.raises(CorruptImageError, match="damaged in its middle"):
        read_image(path, refuse_damaged=True)
    assert read_image(path).shape == image.shape


def test_suffixes_are_those_of_the_decoders(tmp_path):
    for name in ("a.JPE", "a.jfif", "a.gif", "a.jp2", "a.HEIC", "a.webp", "a.Png", "a.avif"):
        assert is_image_name(name)
    for name in ("a.txt", "a.mp4", "a.mpg", "a.json", "a", ".png", "a.npz", "a.pdf"):
        assert not is_image_name(name)
    for suffix in (".jfif", ".gif", ".jp2"):
        assert suffix in image_suffixes()
        data = io.BytesIO()
        Image.fromarray(COLOUR).save(data, {".jfif": "JPEG", ".jp2": "JPEG2000"}.get(suffix, "GIF"))
        (tmp_path / f"a{suffix}").write_bytes(data.getvalue())
        assert read_image(tmp_path / f"a{suffix}").shape == COLOUR.shape


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(image_reader, "_open_heif", lambda: None)
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(CorruptImageError, match=r"HEIC needs a decoder.*spnet_d2\[heif\]"):
        read_image(tmp_path / "a.HEIC")


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (extra heif)")
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 100, 0))).save(tmp_path / "a.heic")
    image = read_image(tmp_path / "a.heic")
    assert image.shape == (48, 64, 3)
    np.testing.assert_allclose(image[24, 32], (200, 100, 0), atol=8)


def test_no_other_code_decodes_images():
    """One reader, so one rule for depth, colour, orientation and damage."""
    root = Path(spnet_d2.__file__).parents[1]
    decoders = re.compile(r"\bImage\.open\(|\bimread\(|\bimdecode\(|exif_transpose|getexif\(")
    folders = ("spnet_d2", "tools", "datasets")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    found = {
        str(path.relative_to(root))
        for path in files
        if any(decoders.search(line.split("#")[0]) for line in path.read_text().splitlines())
    }
    assert found == {"spnet_d2/data/image_reader.py"}
