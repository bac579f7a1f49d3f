"""The steps of Detectron2's beginner's tutorial, with SPNet in place of Mask R-CNN."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils.visualizer import ColorMode, Visualizer

from spnet_d2 import add_spnet_config
from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.mapper import PersonSearchMapper
from spnet_d2.engine import Trainer
from spnet_d2.evaluation import PersonSearchEvaluator
from tests.engine.conftest import _restored_loggers  # noqa: F401

SETS = ("lobby_train", "lobby_val")
HEIGHT, WIDTH = 96, 128


def write_folder(root, number):
    """Images of two people each, and the few fields of a COCO file that people write by hand."""
    rng = np.random.default_rng(number)
    images, annotations = [], []
    for i in range(number):
        image = rng.integers(0, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for k, (x, y, w, h) in enumerate([(8 + 3 * i, 20, 22, 60), (80, 10 + i, 24, 56)]):
            image[y : y + h, x : x + w] = (90 * k, 200 - 90 * k, 255)
            annotations.append(
                {"id": 2 * i + k + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0}
                | {"bbox": [x, y, w, h], "area": w * h, "person_id": k + 1, "is_known": True}
                | {"iou_thresh": 0.5}
            )
        cv2.imwrite(str(root / f"{i}.jpg"), image)
        images.append({"id": i + 1, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "person"}]
    (root / "people.json").write_text(json.dumps(content))


@pytest.fixture
def lobby(tmp_path):
    for name, number in zip(SETS, (8, 4)):
        folder = tmp_path / name
        folder.mkdir()
        write_folder(folder, number)
        register_person_search(name, folder / "people.json", folder)
    yield
    for name in SETS:
        unregister(name)


def test_the_tutorial(lobby, tmp_path):
    metadata = MetadataCatalog.get("lobby_train")
    for d in DatasetCatalog.get("lobby_train")[:3]:
        img = cv2.imread(d["file_name"])
        out = Visualizer(img[:, :, ::-1], metadata=metadata, scale=0.5).draw_dataset_dict(d)
        assert out.get_image().shape == (HEIGHT // 2, WIDTH // 2, 3)

    cfg = get_cfg()
    add_spnet_config(cfg)
    config_file = tmp_path / "small.yaml"
    config_file.write_text(
        "MODEL: {DEVICE: cpu, SPNET: {BACKBONE: {NAME: test_convnext.r160_in1k, PRETRAINED: ''},"
        " EMBED_DIM: 16, REID_DIM: 16, NUM_CASCADES: 1, REID: {QUEUE_SIZE: 7}}}\n"
        "INPUT: {CROP_SIZE: 64, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}\n"
    )
    cfg.merge_from_file(str(config_file))
    cfg.DATASETS.TRAIN = ("lobby_train",)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.WEIGHTS = ""
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 0.00025
    cfg.SOLVER.MAX_ITER = 3
    cfg.SOLVER.STEPS = []
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.OUTPUT_DIR = str(tmp_path / "output")

    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    lines = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert lines[-1]["iteration"] == 2 and np.isfinite(lines[-1]["total_loss"])

    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    predictor = DefaultPredictor(cfg)
    metadata = MetadataCatalog.get("lobby_val")
    image = cv2.imread(DatasetCatalog.get("lobby_val")[0]["file_name"])
    outputs = predictor(image)
    assert len(outputs["instances"]) > 0
    drawn = Visualizer(
        image[:, :, ::-1], metadata=metadata, scale=0.5, instance_mode=ColorMode.IMAGE_BW
    ).draw_instance_predictions(outputs["instances"].to("cpu"))
    assert drawn.get_image().shape == (HEIGHT // 2, WIDTH // 2, 3)

    # Without the original's size, boxes are in the given image's pixels.
    with torch.no_grad():
        inputs = {"image": torch.as_tensor(image[:, :, ::-1].transpose(2, 0, 1).copy())}
        (raw,) = predictor.model([inputs])
        (scaled,) = predictor.model([{**inputs, "height": 2 * HEIGHT, "width": 4 * WIDTH}])
    assert raw["instances"].image_size == (HEIGHT, WIDTH) and len(raw["instances"]) > 0
    boxes = raw["instances"].pred_boxes.tensor
    scale = torch.tensor([4.0, 2.0, 4.0, 2.0])
    torch.testing.assert_close(scaled["instances"].pred_boxes.tensor, boxes * scale)

    evaluator = COCOEvaluator("lobby_val", output_dir=str(tmp_path / "output"))
    val_loader = build_detection_test_loader(cfg, "lobby_val")
    theirs = inference_on_dataset(predictor.model, val_loader, evaluator)
    assert 0 <= theirs["bbox"]["AP"] <= theirs["bbox"]["AP50"] <= 100
    with pytest.raises(ValueError, match="needs an embedding"):
        inference_on_dataset(
            predictor.model, val_loader, PersonSearchEvaluator("lobby_val", ("all",))
        )
    # The same loader with this project's mapper, for people as well as boxes.
    val_loader = build_detection_test_loader(
        cfg, "lobby_val", mapper=PersonSearchMapper(cfg, is_train=False)
    )
    ours = inference_on_dataset(
        predictor.model, val_loader, PersonSearchEvaluator("lobby_val", ("all",))
    )
    assert set(ours) == {"detection", "all"} and 0 <= ours["all"]["top10"] <= 100

    # Nobody is left above a threshold that is out of reach.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.999999
    assert len(DefaultPredictor(cfg)(image)["instances"]) == 0
