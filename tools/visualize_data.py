#!/usr/bin/env python
"""Save images of a data set with its boxes, as annotated or as training sees them.

    tools/visualize_data.py --dataset pets09_train --output outputs/data
    tools/visualize_data.py --dataset pets09_train --output outputs/data --augmented --views 4 \
        --config-file projects_configs/pets09/demo.yaml INPUT.CROP_SIZE 512

Each person has a colour and a label p<number> (counted from 0 within the data set, as training sees
them); unknown people are grey and marked ``?``; ignore regions are crossed out. With
``--augmented`` a row shows the annotated image and then ``--views`` independent training views of
it; where INPUT.SSL_BOXES trains on random boxes, these are shown instead, as in one epoch. Sheets
of ``--rows`` rows are written as ``<dataset>_<number>.png``. No display is needed.
"""

import argparse
import colorsys
import logging
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import cv2
import numpy as np
from detectron2.data import DatasetCatalog

from spnet_d2.config_checks import check_config
from spnet_d2.config_reader import ConfigError, read_config
from spnet_d2.data.geometry import View
from spnet_d2.data.image_reader import count_turned
from spnet_d2.data.mapper import PersonSearchMapper
from spnet_d2.data.own_images import write_own_image
from spnet_d2.data.own_sets import OwnSetsError, check_sets
from spnet_d2.data.samplers import sample_seed
from spnet_d2.data.self_supervised_boxes import build_random_boxes
from spnet_d2.utils.settings_option import add_settings_option
from spnet_d2.utils.text import make_output_safe

logger = logging.getLogger(__name__)

UNKNOWN_COLOUR = (150, 150, 150)
GAP = 4


def person_colour(person_id: int) -> tuple[int, int, int]:
    """RGB colour of a person; neighbouring numbers get hues far apart."""
    hue = person_id * 0.618034 % 1
    return tuple(int(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.9, 1.0))


def draw(sample: dict) -> np.ndarray:
    """Draw the boxes of a mapped sample onto its image: ``(h, w, 3)`` uint8 RGB."""
    image = sample["image"].numpy().clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()
    for box in (
        sample["ignore_boxes"].tensor.round().int().tolist() if "ignore_boxes" in sample else []
    ):
        x1, y1, x2, y2 = box
        cv2.rectangle(image, (x1, y1), (x2, y2), UNKNOWN_COLOUR, 1)
        cv2.line(image, (x1, y1), (x2, y2), UNKNOWN_COLOUR, 1)
        cv2.line(image, (x1, y2), (x2, y1), UNKNOWN_COLOUR, 1)
    people = sample["instances"]
    for box, person_id, identity in zip(
        people.gt_boxes.tensor.round().int().tolist(),
        people.gt_person_ids.tolist(),
        people.gt_identities.tolist(),
    ):
        known = identity >= 0
        colour = person_colour(person_id) if known else UNKNOWN_COLOUR
        cv2.rectangle(image, tuple(box[:2]), tuple(box[2:]), colour, 1)
        label(image, f"p{person_id}" if known else f"p{person_id}?", box[:2], colour)
    return image


def label(image: np.ndarray, text: str, corner: list[int], colour) -> None:
    """Write black text on a coloured plate whose lower left corner is ``corner``, kept inside."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    x = max(0, min(corner[0], image.shape[1] - width - 4))
    y = max(height + 4, corner[1])
    cv2.rectangle(image, (x, y - height - 4), (x + width + 4, y), colour, -1)
    cv2.putText(
        image, text, (x + 2, y - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA
    )


class FixedHeight:
    """Augmentation of the preview: the whole image, ``height`` pixels high."""

    def __init__(self, height: int):
        self.height = height

    def __call__(self, size, boxes, known, rng=None) -> View:
        return View.resize(size, (self.height, max(1, round(size[1] * self.height / size[0]))))


def row_of(images: list[np.ndarray], height: int) -> np.ndarray:
    """Images side by side, each scaled to ``height``."""
    scaled = []
    for image in images:
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        interpolation = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
        scaled += [cv2.resize(image, (width, height), interpolation=interpolation)]
        scaled += [np.full((height, GAP, 3), 255, np.uint8)]
    return np.concatenate(scaled[:-1], axis=1)


def sheet_of(rows: list[np.ndarray]) -> np.ndarray:
    """Rows below each other, white where a row is short."""
    width = max(row.shape[1] for row in rows)
    padded = [
        cv2.copyMakeBorder(
            row, 0, GAP, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)
        )
        for row in rows
    ]
    return np.concatenate(padded, axis=0)


def choose(number: int, limit: int) -> list[int]:
    """Up to ``limit`` indices out of ``number``, evenly spread."""
    return np.linspace(0, number - 1, min(number, limit)).round().astype(int).tolist()


def select(cfg, dicts: list[dict], args) -> list[dict]:
    """The dicts to show; with ``--augmented`` their annotations are those of training."""
    indices = choose(len(dicts), args.images)
    random_boxes = build_random_boxes(cfg, len(dicts), args.seed) if args.augmented else None
    if not random_boxes:
        return [dicts[index] for index in indices]
    return [random_boxes(dicts[index], index, epoch=0) for index in indices]


def make_rows(cfg, dicts: list[dict], args) -> list[np.ndarray]:
    """One row per image, or images in rows of three without ``--augmented``."""
    preview = PersonSearchMapper(augmentation=FixedHeight(args.height), is_train=False)
    plain = [draw(preview(entry)) for entry in dicts]
    if not args.augmented:
        return [row_of(plain[i : i + 3], args.height) for i in range(0, len(plain), 3)]
    train = PersonSearchMapper(cfg, is_train=True)
    rows = []
    for place, (entry, image) in enumerate(zip(dicts, plain)):
        generators = (
            np.random.default_rng(sample_seed(args.seed, view, place)) for view in range(args.views)
        )
        rows.append(row_of([image, *(draw(train(entry, rng)) for rng in generators)], args.height))
    return rows


def save_sheets(rows: list[np.ndarray], args) -> list[Path]:
    """Write the sheets and return their paths."""
    args.output.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, len(rows), args.rows)):
        paths.append(args.output / f"{args.dataset}_{number:03d}.png")
        sheet = cv2.cvtColor(sheet_of(rows[start : start + args.rows]), cv2.COLOR_RGB2BGR)
        write_own_image(paths[-1], sheet)
    return paths


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", type=Path, help="config whose INPUT section --augmented uses"
    )
    parser.add_argument("--dataset", required=True, help="a registered name, e.g. pets09_train")
    parser.add_argument("--output", type=Path, required=True, help="folder for the sheets")
    parser.add_argument("--augmented", action="store_true", help="add training views")
    parser.add_argument("--views", type=int, default=4, help="training views of each image")
    parser.add_argument(
        "--images", type=int, default=12, help="number of images, evenly spread over the data set"
    )
    parser.add_argument("--rows", type=int, default=6, help="rows of a sheet")
    parser.add_argument("--height", type=int, default=320, help="height of a row in pixels")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the training views")
    add_settings_option(parser)
    args = parser.parse_args(argv)
    for name in ("views", "images", "rows", "height"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv=None) -> None:
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        cfg = read_config(args.config_file, args.opts)
        check_config(cfg, training=False)
        check_sets(cfg.DATASETS.FILES, [args.dataset])
    except (ConfigError, OwnSetsError) as error:
        raise SystemExit(f"visualize_data: {error}") from error
    if args.dataset not in DatasetCatalog:
        names = ", ".join(sorted(DatasetCatalog.list()))
        raise SystemExit(f'No data set "{args.dataset}" is registered; there are: {names}')
    try:
        dicts = DatasetCatalog.get(args.dataset)
        if not dicts:
            raise ValueError(f"{args.dataset} has no images.")
        turned = count_turned(entry["file_name"] for entry in dicts)
        if turned:
            logger.warning(
                "%d of the %d images of %s carry an EXIF orientation; boxes are taken for the "
                "upright images.",
                turned,
                len(dicts),
                args.dataset,
            )
        for path in save_sheets(make_rows(cfg, select(cfg, dicts, args), args), args):
            print(path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"visualize_data: {error}") from error


if __name__ == "__main__":
    main()
