#!/usr/bin/env python
"""Prepare the PETS09 demo corpus: fetch ``vtest.avi``, extract frames, write the generic JSON.

The video comes from Debian's / Ubuntu's package ``opencv-doc`` (``apt-get download``, nothing is
installed and no root is needed), or from ``--video PATH``. Either must have the sha256 below. It
is kept as ``vtest.avi`` beside the frames, as a gallery video for ``tools/search.py``.

Writes below ``--output`` (default ``$DETECTRON2_DATASETS/pets09``)::

    vtest.avi, frames/frame_000001.jpg ..., train.json, test.json,
    retrieval/standard.json, retrieval/reentry.json

With ``--weak`` also labels for pre-training, of the training part and without identities::

    weak_train.json                     the boxes of train.json, each a person of its own
    weak_train_p20.json ... p180.json   the same with labels missing (20 % left ...) or spurious
    hog_train.json, hog_frames/         what OpenCV's HOG people detector finds, every --hog-step
                                        frames

Work already done is skipped. ``spnet_d2/data/formats/pets09.py`` explains split and protocols,
``pets09_weak.py`` beside it the weak labels.
"""

import argparse
import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2

from spnet_d2.data.formats import pets09, pets09_weak
from spnet_d2.data.formats.hog_people import detect_people, precision_recall
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.data.video_reader import VideoReader
from spnet_d2.utils.atomic_io import atomic_path, write_image

logger = logging.getLogger("prepare_pets09")

VIDEO_SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
VIDEO_IN_PACKAGE = "usr/share/doc/opencv-doc/examples/data/vtest.avi"
ANNOTATIONS = Path(__file__).resolve().parent / "pets09" / "pets09_s2l1.json"
GET_IT_BY_HAND = (
    "Get vtest.avi by hand (https://github.com/opencv/opencv/raw/4.x/samples/data/vtest.avi, or "
    f"{VIDEO_IN_PACKAGE} of the package opencv-doc, https://packages.debian.org/opencv-doc) and "
    "pass it with --video PATH, here and to tools/demo.py."
)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_video(path: Path) -> None:
    """Raise ``ValueError`` unless ``path`` is the video that was annotated."""
    found = sha256(path)
    if found != VIDEO_SHA256:
        raise ValueError(
            f"{path} is not the annotated vtest.avi: expected sha256 {VIDEO_SHA256}, "
            f"found {found}. Boxes would not fit another encoding. " + GET_IT_BY_HAND
        )


def fetch_video(output: Path, video: Path | None) -> Path:
    """Put a checked ``vtest.avi`` into ``output`` and return its path."""
    target = output / "vtest.avi"
    if video is None and target.is_file() and sha256(target) == VIDEO_SHA256:
        logger.info("%s is there, not fetched again", target)
        return target
    with tempfile.TemporaryDirectory(prefix="opencv-doc-", dir=output) as work:
        if video is None:
            video = _video_from_package(Path(work))
        elif not video.is_file():
            raise FileNotFoundError(f"--video {video} does not exist. {GET_IT_BY_HAND}")
        check_video(video)
        if video.resolve() != target.resolve():
            with atomic_path(target) as part:
                shutil.copyfile(video, part)
    return target


def _video_from_package(work: Path) -> Path:
    """Download and unpack ``opencv-doc`` below ``work``."""
    logger.info("downloading the package opencv-doc (about 96 MB) for vtest.avi")
    try:
        _run(["apt-get", "download", "opencv-doc"], work)
    except RuntimeError:
        # Fresh containers ship without package lists.
        _run(["apt-get", "update"], work)
        _run(["apt-get", "download", "opencv-doc"], work)
    packages = sorted(work.glob("opencv-doc*.deb"))
    if not packages:
        raise RuntimeError(f"apt-get download left no opencv-doc*.deb in {work}. {GET_IT_BY_HAND}")
    _run(["dpkg", "-x", packages[0].name, "unpacked"], work)
    video = work / "unpacked" / VIDEO_IN_PACKAGE
    zipped = video.with_name(video.name + ".gz")
    if zipped.is_file():
        with gzip.open(zipped) as source, open(video, "wb") as target:
            shutil.copyfileobj(source, target)
    if not video.is_file():
        raise RuntimeError(f"{packages[0].name} has no {VIDEO_IN_PACKAGE}[.gz]. {GET_IT_BY_HAND}")
    return video


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"There is no {command[0]} on this machine. {GET_IT_BY_HAND}") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(
            f"`{' '.join(command)}` failed with status {error.returncode}: "
            f"{error.stderr.strip()[-500:]}. {GET_IT_BY_HAND}"
        ) from error


def extract_frames(video: Path, folder: Path, frames: list[int]) -> int:
    """Write the given 1-based frames of ``video`` as JPEG; returns how many were new.

    Quality 98: the video itself is lossy, and reading PNG would take four times as long.

    Raises:
        RuntimeError: if OpenCV cannot decode the video up to the last frame.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {frame for frame in frames if not (folder / pets09.frame_file_name(frame)).is_file()}
    new, last = len(missing), 0

    def wanted(number: int) -> bool:
        nonlocal last
        last = number + 1
        return last in missing

    if missing:
        for frame in VideoReader(video).frames(wanted):
            target = folder / pets09.frame_file_name(frame.number + 1)
            write_image(target, frame.image, [cv2.IMWRITE_JPEG_QUALITY, 98])
            missing.remove(frame.number + 1)
            if not missing:
                break
    if missing:
        failed = last if last in missing else last + 1
        raise RuntimeError(
            f"OpenCV {cv2.__version__} could not read frame {failed} of {video}; "
            "an OpenCV wheel from PyPI decodes it (pip install opencv-python-headless)."
        )
    return new


def prepare(output: Path, video: Path | None = None, annotations: Path = ANNOTATIONS) -> dict:
    """Do everything; returns the counts of each partition and protocol."""
    raw = pets09.load_annotations(annotations)
    output.mkdir(parents=True, exist_ok=True)
    new = extract_frames(
        fetch_video(output, video), output / "frames", pets09.annotated_frames(raw)
    )
    logger.info("%d new frames in %s", new, output / "frames")

    counts = {}
    partitions = pets09.build_partitions(raw)
    for name, part in partitions.items():
        write_person_search_json(
            output / f"{name}.json", part["images"], part["annotations"], info=pets09.INFO
        )
        people = {annotation["person_id"] for annotation in part["annotations"]}
        counts[name] = (
            f"{len(part['images'])} frames, {len(part['annotations'])} boxes, {len(people)} people"
        )
    for name, protocol in pets09.build_protocols(raw, partitions["test"]).items():
        path = output / "retrieval" / f"{name}.json"
        write_protocol(path, protocol["images"], protocol["queries"])
        counts[name] = f"{len(protocol['queries'])} queries"
    return counts


def prepare_weak(
    output: Path, annotations: Path = ANNOTATIONS, hog_step: int = pets09_weak.HOG_STEP
) -> dict:
    """Write the weak labels beside what :func:`prepare` wrote; returns the counts of each set."""
    frames = pets09_weak.hog_frames(hog_step)
    folder = output / "hog_frames"
    extract_frames(output / "vtest.avi", folder, frames)
    train = pets09.build_partitions(pets09.load_annotations(annotations))["train"]
    paths = [folder / pets09.frame_file_name(frame) for frame in frames]
    size = train["images"][0]["width"], train["images"][0]["height"]
    hog = pets09_weak.hog_partition(frames, detect_people(paths), size)
    parts = {**pets09_weak.without_identities(train), "hog_train": hog}

    counts = {}
    for name, part in parts.items():
        write_person_search_json(
            output / f"{name}.json", part["images"], part["annotations"], info=pets09.INFO
        )
        counts[name] = f"{len(part['images'])} frames, {len(part['annotations'])} boxes"
    common = pets09_weak.compare(hog, train)
    precision, recall = precision_recall(**common)
    counts["hog_train"] += (
        f"; against the {len(common['found'])} of them that are annotated: precision "
        f"{precision:.3f}, recall {recall:.3f} at IoU 0.5"
    )
    return counts


def main() -> None:
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path(root) / "pets09", help="folder to write to"
    )
    parser.add_argument(
        "--video", type=Path, help="vtest.avi, instead of downloading it with apt-get"
    )
    parser.add_argument("--annotations", type=Path, default=ANNOTATIONS, help="pets09_s2l1.json")
    parser.add_argument(
        "--weak", action="store_true", help="also make labels without identities, for pre-training"
    )
    parser.add_argument(
        "--hog-step",
        type=int,
        default=pets09_weak.HOG_STEP,
        metavar="N",
        help="with --weak: detect in every N-th training frame (default: %(default)s)",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        counts = prepare(args.output, args.video, args.annotations)
        if args.weak:
            counts |= prepare_weak(args.output, args.annotations, args.hog_step)
    except (OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f"prepare_pets09: {error}\n")
    for name, count in counts.items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
