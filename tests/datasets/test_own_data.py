"""From somebody's annotations to a trained and evaluated model, from an empty folder."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.data.formats.convert.files import write
from tests.fixtures.scripts import ROOT

SETTINGS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.SPNET.BACKBONE.NAME": "test_convnext.r160_in1k",
    "MODEL.SPNET.BACKBONE.PRETRAINED": "",
    "MODEL.SPNET.EMBED_DIM": "16",
    "MODEL.SPNET.REID_DIM": "16",
    "MODEL.SPNET.REID.QUEUE_SIZE": "7",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "INPUT.CROP_SIZE": "64",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "SOLVER.IMS_PER_BATCH": "4",
    "SOLVER.MAX_ITER": "2",
}


def run(folder, *command):
    """A program in a folder of the user's; what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / command[0]), *map(str, command[1:])]
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: eight frames of two people in two sequences, converted."""
    folder = tmp_path_factory.mktemp("user")
    noise = np.random.default_rng(0)
    for name in ("east", "west"):
        rows = []
        for frame in range(1, 9):
            file = folder / "MOT" / name / "img1" / f"{frame:06d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), noise.integers(0, 255, (64, 96, 3), dtype=np.uint8))
            rows += [f"{frame},{who},{8 + 40 * who - 40},6,24,48,1,1,1" for who in (1, 2)]
        write(folder / "MOT" / name / "gt" / "gt.txt", "\n".join(rows) + "\n")
    options = ("--protocol", "other_images", "--test-sequences", "west")
    text = run(folder, "datasets/convert.py", "--from", "mot", "MOT", "street", *options)
    assert "use them with: DATASETS.FILES street/datasets.yaml" in text
    return folder


def train(folder, output, *options):
    settings = SETTINGS | {
        "DATASETS.FILES": "street/datasets.yaml",
        "DATASETS.TRAIN": "('street_train',)",
        "DATASETS.TEST": "('street_test',)",
        "OUTPUT_DIR": output,
    }
    settings = [word for pair in settings.items() for word in pair]
    run(folder, "tools/train_net.py", *options, *settings)
    return json.loads((folder / output / "inference" / "street_test" / "metrics.json").read_text())


def test_train_evaluate_and_look(folder):
    metrics = train(folder, "one")
    assert metrics
    predictions = folder / "one" / "inference" / "street_test" / "predictions.npz"
    files = (
        "--annotations",
        "street/test.json",
        "--protocol",
        "street/retrieval/other_images.json",
    )
    run(folder, "tools/evaluate.py", *files, "--predictions", predictions, "--output", "again")
    again = json.loads((folder / "again" / "metrics.json").read_text())
    key = next(key for key in again if key.endswith("mAP"))
    assert again[key] == pytest.approx(metrics[key])
    options = ("--dataset", "street_train", "--output", "sheets")
    run(folder, "tools/visualize_data.py", *options, "DATASETS.FILES", "street/datasets.yaml")
    assert list((folder / "sheets").glob("street_train_*.png"))
    # The config that training wrote knows the sets, wherever it is read.
    options += ("--config-file", folder / "one" / "config.yaml")
    run(folder / "one", "tools/visualize_data.py", *options)


def test_two_processes_know_the_sets(folder):
    assert train(folder, "two", "--num-gpus", "2")
