"""The experiments in miniature: synthetic corpora and a tiny model, to run a chain in a minute.

Corpora, trunk and schedule are toys; everything else (pathway, losses, heads, what is loaded from
where) is the experiment's own. The metrics mean nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from spnet_d2.data.formats import cocopersons
from spnet_d2.data.person_search_json import write_protocol
from spnet_d2.data.synthetic import Scene, draw_people, write_scenes
from spnet_d2.utils.atomic_io import write_image, write_json

WIDTH, HEIGHT = 160, 120
# People per image; the noise partitions need five.
CROWD = 6
TRUNK = "test_convnext.r160_in1k"
DIM = 16


def settings(cfg: CfgNode) -> list:
    """
    What makes a tiny CPU run of an experiment, as KEY VALUE pairs.

    Args:
        cfg: the experiment's own config.
    """
    options = cfg.MODEL.SPNET
    small = {
        "MODEL.DEVICE": "cpu",
        "MODEL.SPNET.BACKBONE.NAME": TRUNK,
        "MODEL.SPNET.BACKBONE.PRETRAINED": "",
        "MODEL.SPNET.EMBED_DIM": DIM,
        # Large heads stay larger.
        "MODEL.SPNET.REID_DIM": DIM if options.REID_DIM == options.EMBED_DIM else 24,
        "MODEL.SPNET.ANCHORS_PER_IMAGE": 16,
        "MODEL.SPNET.QC.ANCHORS_PER_PAIR": 16,
        "MODEL.SPNET.QC.PAIRS_PER_BATCH": 8,
        "MODEL.SPNET.REID.NUM_IDENTITIES": -1,
        "MODEL.SPNET.REID.QUEUE_SIZE": 64,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": 5,
        "INPUT.CROP_SIZE": 64,
        "INPUT.MIN_SIZE_TRAIN": (96,),
        "INPUT.MAX_SIZE_TRAIN": 128,
        "INPUT.MIN_SIZE_TEST": 96,
        "INPUT.MAX_SIZE_TEST": 128,
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.EPOCHS": 1,
        "SOLVER.CHECKPOINT_EPOCHS": 0,
        "SOLVER.CHECKPOINT_PERIOD": 1,
        "TEST.EVAL_EPOCHS": 0,
        "DATALOADER.NUM_WORKERS": 0,
    }
    return [x for pair in small.items() for x in pair]


def write_corpora(root: str | Path) -> Path:
    """
    Write prepared toy versions of COCOPersons, CUHK-SYSU and PRW, unless they are there.

    Args:
        root: becomes a folder as ``DETECTRON2_DATASETS`` names.

    Returns:
        ``root``.
    """
    root = Path(root)
    done = root / "complete"
    if not done.is_file():
        _write_cocopersons(root / "coco")
        _write_retrieval(
            root / "cuhk", "Image/SSM", {"trainval": 8, "test": 6, "minival": 4}, "G100"
        )
        _write_retrieval(root / "prw", "frames", {"trainval": 8, "test": 6}, "test")
        done.write_text("")
    return root


def _write_cocopersons(folder: Path) -> None:
    """COCO's own files, from which the partitions are prepared as from the real ones."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1)):
        images: list[dict] = []
        annotations: list[dict] = []
        for i in range(count):
            boxes = _people(rng, CROWD)
            name = f"{i:012d}.jpg"
            write_image(folder / f"{part}2017" / name, _image(rng, boxes, range(len(boxes))))
            images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for box in boxes:
                entry = {"id": len(annotations), "image_id": i, "category_id": 1, "iscrowd": 0}
                annotations.append({**entry, "bbox": box, "area": box[2] * box[3]})
        content = {
            "info": {},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
        }
        path = folder / "annotations" / f"instances_{part}2017.json"
        write_json(path, content)
    cocopersons.prepare(folder, cocopersons.Samples(sizes=()))


def _write_retrieval(folder: Path, image_folder: str, parts: dict[str, int], protocol: str) -> None:
    """Two known people, each in every second image, and an unknown one in all."""
    rng = np.random.default_rng(1)
    for part, count in parts.items():
        scenes = (_scene(f"{part}_{i}.jpg", rng, i) for i in range(count))
        write_scenes(folder / "coco" / f"{part}.json", folder / image_folder, scenes)
    # The known person of the first two test images; CUHK-SYSU lists a gallery for each.
    galleries = {q: [i for i in range(parts["test"]) if i != q // 2] for q in (0, 2)}
    queries = galleries if protocol == "G100" else list(galleries)
    write_protocol(folder / "retrieval" / f"{protocol}.json", range(parts["test"]), queries)


def _scene(name: str, rng: np.random.Generator, i: int) -> Scene:
    boxes, people = _people(rng, 2), [i % 2, 100 + i]
    return Scene(name, _image(rng, boxes, people), boxes, people, [True, False], camera=i % 3)


def _people(rng: np.random.Generator, count: int) -> list[list[float]]:
    """Boxes side by side, x, y, w, h."""
    slot = WIDTH // count
    boxes = []
    for k in range(count):
        width, height = rng.integers(slot // 2, slot), rng.integers(40, 90)
        x, y = k * slot + rng.integers(0, slot - width + 1), rng.integers(0, HEIGHT - height)
        boxes.append([float(x), float(y), float(width), float(height)])
    return boxes


def _image(rng: np.random.Generator, boxes: list, people: Sequence[int]) -> np.ndarray:
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return draw_people(noise, boxes, people)
