import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.demo.starts import register_sample, start_metrics

NAMES = ("starts_source", "starts_sample")


@pytest.fixture
def source(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(10, 17)]
    annotations = [
        {"id": k, "image_id": 10 + k // 2, "bbox": [2, 3, 10, 20], "person_id": 1 + k % 3}
        | {"category_id": 1, "area": 200, "iscrowd": 0, "is_known": True, "iou_thresh": 0.5}
        for k in range(14)
    ]
    write_person_search_json(tmp_path / "all.json", images, annotations)
    register_person_search(NAMES[0], tmp_path / "all.json", tmp_path / "images")
    yield NAMES[0]
    for name in NAMES:
        unregister(name)


def test_sample_has_every_third_image_with_its_boxes(source, tmp_path):
    for step, ids in ((3, [10, 13, 16]), (4, [10, 14])):
        file = tmp_path / "compare" / "sample.json"
        register_sample(source, NAMES[1], step, file)
        dicts = DatasetCatalog.get(NAMES[1])
        assert [d["image_id"] for d in dicts] == ids
        assert all(len(d["annotations"]) == 2 for d in dicts)
        assert dicts[1]["file_name"] == str(tmp_path / "images" / f"{ids[1]}.png")
        assert MetadataCatalog.get(NAMES[1]).protocols == {}
        assert len(json.loads(file.read_text())["annotations"]) == 2 * len(ids)


def test_metrics_of_a_start():
    found = {
        "detection": {"AP50": 0.5, "recall50": 0.6},
        "all": {"mAP": 0.1234567, "gt_mAP": 1, "top1": 0.3},
    }
    assert start_metrics(found) == {"AP50": 0.5, "mAP": 0.123457, "gt_mAP": 1.0}
