"""Dataset dicts to model input."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BoxMode
from PIL import Image

from spnet_d2.config import add_spnet_config
from spnet_d2.data.mapper import PersonSearchMapper
from spnet_d2.data.person_search_json import load_person_search_json
from spnet_d2.data.transforms import WindowResize


def make_cfg(*pairs):
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.merge_from_list(list(pairs))
    return cfg


def mapper(is_train, *pairs):
    return PersonSearchMapper(make_cfg(*pairs), is_train=is_train)


def person(number, bbox, identity=None):
    return {
        "annotation_id": 100 + number,
        "bbox": bbox,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "person_id": number,
        "identity": number if identity is None else identity,
        "is_known": identity != -1,
        "iou_thresh": 0.5,
    }


@pytest.fixture
def record(tmp_path):
    """A 64 x 48 image with two people, one unknown, and an ignore region."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 7,
        "height": 48,
        "width": 64,
        "cam_id": 2,
        "ignore_regions": [[50.0, 0.0, 10.0, 12.0]],
        "annotations": [person(0, [8.0, 6.0, 10.0, 20.0]), person(1, [40.0, 10.0, 8.0, 30.0], -1)],
    }


def test_test_time(record):
    before = copy.deepcopy(record)
    out = mapper(False, "INPUT.MIN_SIZE_TEST", 96)(record)
    assert record == before
    assert out["image"].shape == (3, 96, 128) and out["image"].dtype == torch.uint8
    assert (out["height"], out["width"], out["image_id"], out["cam_id"]) == (48, 64, 7, 2)
    assert "annotations" not in out and "ignore_regions" not in out
    instances = out["instances"]
    assert instances.image_size == (96, 128)
    assert instances.gt_boxes.tensor.tolist() == [[16, 12, 36, 52], [80, 20, 96, 80]]
    assert instances.gt_boxes.tensor.dtype == torch.float32
    for field, expected in {
        "gt_classes": [0, 0],
        "gt_person_ids": [0, 1],
        "gt_identities": [0, -1],
        "gt_annotation_ids": [100, 101],
    }.items():
        assert instances.get(field).tolist() == expected
        assert instances.get(field).dtype == torch.int64
    assert out["ignore_boxes"].tensor.tolist() == [[100, 0, 120, 24]]


def test_pixels_are_rgb(record, tmp_path):
    Image.new("RGB", (64, 48), (200, 100, 0)).save(tmp_path / "a.png")
    out = mapper(False)(record)["image"]
    assert out.flatten(1).unique(dim=1).squeeze(1).tolist() == [200, 100, 0]


@pytest.mark.parametrize("name", ["wrs", "rrc", "rrc2", "rrc_scale"])
def test_training_views(record, name):
    train = mapper(True, "INPUT.AUG_TRAIN", name, "INPUT.CROP_SIZE", 64)
    for seed in range(10):
        out = train(record, np.random.default_rng(seed))
        size = tuple(out["image"].shape[1:])
        assert size == ((900, 1200) if name == "wrs" else (64, 64))
        boxes = out["instances"].gt_boxes.tensor
        assert out["instances"].image_size == size
        # The older crop is never enlarged, and these people are larger.
        assert len(boxes) >= (name != "rrc") and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all() and (boxes[:, 2:] <= torch.tensor(size[::-1])).all()
        again = train(record, np.random.default_rng(seed))
        assert torch.equal(out["image"], again["image"])
        assert torch.equal(boxes, again["instances"].gt_boxes.tensor)


def test_labels_travel_with_the_boxes(record):
    """A dropped first box must not shift the ids of the second."""
    record["annotations"][1]["identity"] = 1
    train = mapper(True, "INPUT.CROP_SIZE", 320, "INPUT.RSC_PROB", 0.0)
    seen = set()
    for seed in range(40):
        instances = train(record, np.random.default_rng(seed))["instances"]
        ids = tuple(instances.gt_annotation_ids.tolist())
        assert instances.gt_person_ids.tolist() == [number - 100 for number in ids]
        heights = instances.gt_boxes.tensor[:, 3] - instances.gt_boxes.tensor[:, 1]
        for number, height in zip(ids, heights.tolist()):
            # 20 and 30 px times 900 / 48, cut at worst to the crop or to 40 % of the area.
            full = {100: 375.0, 101: 562.5}[number]
            assert 0.39 * full * min(1, 320 / full) < height <= full
        seen.add(ids)
    assert len(seen) > 1


def test_hardly_visible_boxes_are_dropped_in_training_only(record):
    # 30 % of the third person is inside the image.
    record["annotations"].append(person(2, [61.0, 20.0, 10.0, 10.0]))
    train = mapper(True, "INPUT.AUG_TRAIN", "wrs")(record, np.random.default_rng(0))
    assert train["instances"].gt_annotation_ids.tolist() == [100, 101]
    assert len(mapper(False)(record)["instances"]) == 3


@pytest.mark.parametrize("name", ["wrs", "rrc", "rrc2", "rrc_scale"])
@pytest.mark.parametrize("seed", range(4))
def test_images_without_people(record, name, seed):
    record.update(annotations=[], ignore_regions=[])
    out = mapper(True, "INPUT.AUG_TRAIN", name)(record, np.random.default_rng(seed))
    instances = out["instances"]
    assert instances.gt_boxes.tensor.shape == (0, 4) and len(instances) == 0
    assert instances.gt_person_ids.dtype == torch.int64
    assert "ignore_boxes" not in out


def test_images_without_annotations_have_no_instances(record):
    del record["annotations"], record["height"], record["width"]
    out = mapper(False)(record)
    assert "instances" not in out and (out["height"], out["width"]) == (48, 64)


def test_exact_8bit(record):
    """One quantisation step beside the plain path; padding is the image's minimum."""
    model = make_cfg().MODEL
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.PIXEL_MEAN, model.PIXEL_STD))
    native = ("INPUT.AUG_TEST", "none")
    plain = mapper(False, *native)(record)["image"]
    exact = mapper(False, *native, "INPUT.EXACT_8BIT", True)(record)["image"]
    assert exact.dtype == torch.float32
    loss = ((plain.float() - exact) / std).numpy()
    assert loss.min() > -1e-4 and loss.max() < 4.76 / 255 + 1e-4

    pairs = ("INPUT.CROP_SIZE", 600, "INPUT.RSC_PROB", float("inf"))
    record["annotations"] = record["annotations"][:1]
    padded = [
        mapper(True, *pairs, "INPUT.EXACT_8BIT", flag)(record, np.random.default_rng(5))["image"]
        for flag in (False, True)
    ]
    black = (padded[0] == 0).all(dim=0)
    assert black.float().mean() > 0.05
    minimum = ((plain.float() - mean) / std).min()
    restored = ((padded[1] - mean) / std)[:, black]
    torch.testing.assert_close(restored, minimum.expand_as(restored), atol=1e-4, rtol=0)


def test_boxes_in_other_modes(record):
    record["annotations"][0].update(bbox=[8.0, 6.0, 18.0, 26.0], bbox_mode=BoxMode.XYXY_ABS)
    boxes = mapper(False, "INPUT.AUG_TEST", "none")(record)["instances"].gt_boxes.tensor
    assert boxes.tolist() == [[8, 6, 18, 26], [40, 10, 48, 40]]


def test_without_a_config(record):
    made = PersonSearchMapper(augmentation=WindowResize(96, 200), is_train=False)
    assert made(record)["image"].shape == (3, 96, 128)


def test_boxes_are_those_of_the_upright_image(record, tmp_path):
    """Orientation 3 leaves the size as it is, so only the pixels can tell."""
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[6:26, 8:18] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(upright[::-1, ::-1].copy()).save(tmp_path / "a.png", exif=exif)
    out = mapper(False, "INPUT.AUG_TEST", "none")(record)
    x1, y1, x2, y2 = out["instances"].gt_boxes.tensor[0].int().tolist()
    assert (out["image"][:, y1:y2, x1:x2] == 255).all()
    assert int((out["image"] == 255).sum()) == 3 * 200


def test_annotations_of_stored_pixels_are_told(record, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png", exif=exif)
    with pytest.raises(ValueError, match="found 48 x 64.*EXIF orientation is 6.*stored pixels"):
        mapper(False)(record)
    record.update(width=48, height=64)
    assert mapper(False, "INPUT.AUG_TEST", "none")(record)["image"].shape == (3, 64, 48)


def test_16_bit_grey(record, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (48, 64)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = mapper(False, "INPUT.AUG_TEST", "none")(record)["image"].numpy()
    np.testing.assert_array_equal(image, np.stack([np.rint(values / 257.0)] * 3))


def test_bad_files(record, tmp_path):
    path = tmp_path / "a.png"
    test = mapper(False)
    record["width"] = 65
    with pytest.raises(ValueError, match="65 x 48 pixels, found 64 x 48"):
        test(record)
    record["width"] = 64
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"Cannot read .*a\.png"):
        test(record)
    path.write_text("not an image")
    with pytest.raises(ValueError, match=r"Cannot read .*a\.png"):
        test(record)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"No image at .*a\.png.*DETECTRON2_DATASETS"):
        test(record)


def test_plain_coco_annotations_are_refused(record):
    del record["annotations"][0]["identity"]
    with pytest.raises(ValueError, match=r"lacks \['identity'\].*register_person_search"):
        mapper(False)(record)


@pytest.mark.parametrize(
    "json_file, image_root",
    [
        ("cuhk/coco/trainval.json", "cuhk/Image/SSM"),
        ("prw/coco/test.json", "prw/frames"),
        ("coco/coco/train.json", "coco/train2017"),
    ],
)
def test_prepared_corpora(prepared_root, json_file, image_root):
    """Grey and portrait images, boxes beyond the border: what the official files have."""
    train = mapper(True, "INPUT.CROP_SIZE", 64)
    for entry in load_person_search_json(prepared_root / json_file, prepared_root / image_root):
        out = train(entry, np.random.default_rng(entry["image_id"]))
        assert out["image"].shape == (3, 64, 64)
        assert len(out["instances"]) >= bool(entry["annotations"])
