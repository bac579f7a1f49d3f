"""A tiny corpus under the names ``tiny_train`` / ``tiny_test``, and configs that train on it."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg

from spnet_d2.config import add_spnet_config
from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.utils.log_handlers import restored_log_handlers

NUM_IMAGES, HEIGHT, WIDTH = 8, 96, 128
NUM_KNOWN = 3


def write_tiny_corpus(root: Path) -> Path:
    """Eight noisy images, two people in each: one of three known ones and an unknown one."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(NUM_IMAGES):
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        boxes = [[8 + 3 * i, 20, 22, 60], [80, 10 + i, 24, 56]]
        for (x, y, w, h), colour in zip(boxes, (60 * (i % NUM_KNOWN), 230)):
            image[y : y + h, x : x + w] = colour
        name = f"{i}.png"
        cv2.imwrite(str(root / name), image)
        images.append(
            {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH, "cam_id": i % 2}
        )
        for k, box in enumerate(boxes):
            known = k == 0
            annotations.append(
                {
                    "id": 2 * i + k,
                    "image_id": i,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "category_id": 1,
                    "iscrowd": 0,
                    "person_id": i % NUM_KNOWN if known else 100 + i,
                    "is_known": known,
                    "iou_thresh": 0.5,
                }
            )
    write_person_search_json(root / "people.json", images, annotations)
    write_protocol(root / "all_pairs.json", range(NUM_IMAGES), [0, 2, 4])
    return root


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """Folder of the corpus, which is registered while the tests run."""
    root = write_tiny_corpus(tmp_path_factory.mktemp("tiny"))
    for name in ("tiny_train", "tiny_test"):
        register_person_search(name, root / "people.json", root, root / "all_pairs.json")
    yield root
    for name in ("tiny_train", "tiny_test"):
        unregister(name)


@pytest.fixture(autouse=True, scope="module")
def _restored_loggers():
    """Undo Detectron2's set-up of loggers, which writes to a test's files and output."""
    loggers = [logging.getLogger(name) for name in ("spnet_d2", "detectron2", "fvcore")]
    states = [(log.propagate, log.level) for log in loggers]
    with restored_log_handlers():
        yield
    for log, (propagate, level) in zip(loggers, states):
        log.setLevel(level)
        log.propagate = propagate


@pytest.fixture
def default_cfg() -> CfgNode:
    """The project's defaults."""
    cfg = get_cfg()
    add_spnet_config(cfg)
    return cfg


@pytest.fixture(scope="session")
def tiny_opts(tiny_corpus) -> list:
    """Settings for four training iterations per epoch on the CPU, as KEY VALUE pairs."""
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.SPNET.BACKBONE.NAME": "test_convnext.r160_in1k",
        "MODEL.SPNET.BACKBONE.PRETRAINED": "",
        "MODEL.SPNET.EMBED_DIM": 16,
        "MODEL.SPNET.REID_DIM": 16,
        "MODEL.SPNET.NUM_CASCADES": 1,
        "MODEL.SPNET.ANCHORS_PER_IMAGE": 16,
        "MODEL.SPNET.QC.ANCHORS_PER_PAIR": 8,
        "MODEL.SPNET.REID.QUEUE_SIZE": 7,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": 5,
        "INPUT.CROP_SIZE": 64,
        "INPUT.MIN_SIZE_TRAIN": (HEIGHT,),
        "INPUT.MAX_SIZE_TRAIN": WIDTH,
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.MAX_SIZE_TEST": 96,
        "DATASETS.TRAIN": "('tiny_train',)",
        "DATASETS.TEST": "('tiny_test',)",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.BASE_LR": 1e-3,
        "SOLVER.EPOCHS": 2,
        "SOLVER.CHECKPOINT_EPOCHS": 0,
        "SOLVER.CHECKPOINT_PERIOD": 3,
    }
    return [x for pair in settings.items() for x in pair]
