from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from spnet_d2.data.mapper import PersonSearchMapper
from spnet_d2.search import PersonSearchPredictor, SearchInputError

from .scenes import BLUE, GREEN, RED, draw_scene, make_predictor
from .tiny import tiny_config


def test_boxes_are_in_pixels_of_the_image():
    image = draw_scene({RED: (20, 30, 20, 50), BLUE: (100, 40, 24, 60)})
    (people,) = make_predictor().detect([image])
    assert people.scores[0] > people.scores[1]
    np.testing.assert_allclose(people.boxes, [[20, 30, 40, 80], [100, 40, 124, 100]], atol=1)
    assert people.boxes.dtype == people.scores.dtype == people.embeddings.dtype == np.float32
    assert len(people.above(0.9)) == 1


def test_channel_order():
    image = draw_scene({RED: (20, 30, 20, 50)})
    bgr = make_predictor().detect([image])[0].embeddings
    rgb = make_predictor(image_format="RGB").detect([image[:, :, ::-1]])[0].embeddings
    np.testing.assert_array_equal(bgr, rgb)
    assert bgr[0].argmax() == 0  # red comes first in the model's RGB
    with pytest.raises(ValueError, match="image_format"):
        make_predictor(image_format="YUV")


def test_embed_given_boxes_in_order():
    image = draw_scene({RED: (20, 30, 20, 50), GREEN: (60, 30, 20, 50), BLUE: (100, 40, 24, 60)})
    embeddings = make_predictor().embed(image, [(102, 42, 120, 90), (20, 30, 40, 80)])
    assert embeddings.shape == (2, 3)
    assert embeddings.argmax(axis=1).tolist() == [2, 0]


def test_nobody_there_and_a_generator_of_images():
    results = make_predictor().detect(image for image in [draw_scene({})] * 2)
    assert [len(people) for people in results] == [0, 0]
    assert results[0].boxes.shape == (0, 4) and results[0].embeddings.shape == (0, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)]
)
def test_what_is_no_image(image):
    with pytest.raises(ValueError, match="uint8 array, found"):
        make_predictor().detect([image])


@pytest.mark.parametrize("exact_8bit", [False, True])
def test_same_input_as_in_evaluation(tmp_path, exact_8bit):
    """The predictor's model input equals the mapper's, bit by bit."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), image)
    cfg = tiny_config()
    cfg.INPUT.EXACT_8BIT = exact_8bit
    predictor = make_predictor(exact_8bit=exact_8bit)
    mapper = PersonSearchMapper(cfg, is_train=False)
    predictor.augmentation = mapper.augmentation
    annotation = {"bbox": [10, 12, 30, 40], "bbox_mode": 1, "category_id": 0}
    annotation.update(person_id=0, identity=0, annotation_id=7)
    want = mapper({"file_name": str(tmp_path / "x.png"), "annotations": [annotation]})
    got = predictor._input(image, np.array([[10, 12, 40, 52]], float))
    assert got["image"].dtype == want["image"].dtype and torch.equal(got["image"], want["image"])
    assert (got["height"], got["width"]) == (want["height"], want["width"])
    torch.testing.assert_close(got["instances"].gt_boxes.tensor, want["instances"].gt_boxes.tensor)


def test_real_model_end_to_end(trained):
    cfg, path, model = trained
    cfg = cfg.clone()
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = "no/such/file.pth"  # the checkpoint has these weights
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = -1
    cfg.freeze()
    predictor = PersonSearchPredictor(cfg, weights=path)
    image = draw_scene({RED: (20, 30, 20, 50), BLUE: (100, 40, 24, 60)})
    (people,) = predictor.detect([image])
    with torch.no_grad():
        want = model([predictor._input(image)])[0]["instances"]
    assert len(people) == len(want) > 0
    np.testing.assert_allclose(people.scores, want.scores.sort(descending=True).values, rtol=1e-6)
    embeddings = predictor.embed(image, [(20, 30, 40, 80), (100, 40, 124, 100)])
    assert embeddings.shape == (2, 16) and np.isfinite(embeddings).all()
    # The re-id embedding of a detection is that of its box.
    again = predictor.embed(image, people.boxes[:1])
    np.testing.assert_allclose(again[0], people.embeddings[0], rtol=1e-3, atol=1e-4)
    assert predictor.fingerprint == PersonSearchPredictor(cfg, weights=path).fingerprint


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (4000, 2), (119, 7)])
def test_images_of_any_size(trained, size):
    cfg, path, _ = trained
    predictor = PersonSearchPredictor(cfg, weights=path)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (people,) = predictor.detect([image])
    assert np.isfinite(people.boxes).all() and people.embeddings.shape == (len(people), 16)
    assert (people.boxes >= 0).all() and (people.boxes <= [size[1], size[0]] * 2).all()
    # One pixel in a corner, and all of it.
    boxes = [(0, 0, 1, 1), (size[1] - 1, size[0] - 1, size[1], size[0]), (0, 0, size[1], size[0])]
    embeddings = predictor.embed(image, boxes)
    assert embeddings.shape == (3, 16) and np.isfinite(embeddings).all()
    for box in boxes:
        query = predictor.query(image, box)
        (found,) = predictor.detect([image], query=query)
        assert np.isfinite(query.reid).all() and np.isfinite(found.embeddings).all()


def test_given_boxes_are_embedded_without_detecting(trained, monkeypatch):
    """The same embeddings as of a pass that also detects, whatever else is in the batch."""
    cfg, weights, model = trained
    predictor = PersonSearchPredictor(cfg, weights=weights)
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    boxes = np.array([[10, 10, 50, 100], [80, 20, 120, 110]], float)
    x = predictor._input(image, boxes)
    detecting = {key: value for key, value in x.items() if key != "embed_only"}
    with torch.inference_mode():
        expected = model([detecting])[0]["gt_embeddings"]
        both, alone = model([detecting, x])
    assert "instances" in both and set(alone) == {"gt_embeddings"}
    for name in ("reid", "loc"):
        torch.testing.assert_close(alone["gt_embeddings"][name], expected[name])

    def not_to_be_called(*args, **kwargs):
        raise AssertionError("detects the whole scene")

    monkeypatch.setattr(predictor.model.proposal_generator, "forward", not_to_be_called)
    monkeypatch.setattr(predictor.model.roi_heads, "detect", not_to_be_called)
    assert np.array_equal(predictor.embed(image, boxes), expected["reid"].numpy())
    query = predictor.query(image, boxes[1])
    np.testing.assert_allclose(query.loc, expected["loc"][1].numpy(), rtol=1e-4, atol=1e-6)


def test_query_centric_detection(trained, tmp_path):
    """The same weights detect for one query; a model for queries only says so."""
    cfg, path, model = trained
    cfg = cfg.clone()
    cfg.MODEL.SPNET.TEST_PATHWAY = "QC"
    predictor = PersonSearchPredictor(cfg, weights=path)
    image = draw_scene({RED: (20, 30, 20, 50), BLUE: (100, 40, 24, 60)})
    query = predictor.query(image, (20, 30, 40, 80))
    np.testing.assert_array_equal(query.reid, predictor.embed(image, (20, 30, 40, 80))[0])
    first, second = predictor.detect([image, image[:, ::-1].copy()], query=query)
    x = predictor._input(image)
    x["queries"] = {"reid": torch.tensor(query.reid[None]), "loc": torch.tensor(query.loc[None])}
    with torch.no_grad():
        (want,) = model([x])[0]["query_instances"]
    assert len(first) == len(want) > 0
    np.testing.assert_allclose(first.scores, want.scores.sort(descending=True).values, rtol=1e-6)
    assert second.embeddings.shape == (len(second), 16)
    with pytest.raises(SearchInputError, match="TEST_PATHWAY is QC.*query=predictor.query"):
        predictor.detect([image])


def test_bad_weights(trained, tmp_path):
    cfg, path, model = trained
    with pytest.raises(SearchInputError, match="No weights given"):
        PersonSearchPredictor(cfg)
    with pytest.raises(SearchInputError, match="No weight file at .*missing.pth"):
        PersonSearchPredictor(cfg, weights=str(tmp_path / "missing.pth"))

    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(SearchInputError, match="broken.pth"):
        PersonSearchPredictor(cfg, weights=str(broken))

    state = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.fpn")}
    torch.save({"model": state}, tmp_path / "part.pth")
    with pytest.raises(SearchInputError, match="does not fit the config.*backbone.fpn"):
        PersonSearchPredictor(cfg, weights=str(tmp_path / "part.pth"))

    other = cfg.clone()
    other.MODEL.SPNET.EMBED_DIM = other.MODEL.SPNET.REID_DIM = 8
    with pytest.raises(SearchInputError, match="does not fit the config"):
        PersonSearchPredictor(other, weights=path)


@pytest.mark.parametrize(
    "image, message",
    [
        (None, "found NoneType: cv2.imread gives None"),
        ("a.jpg", "found str .'a.jpg'.: read it with spnet_d2.search.read_image_bgr"),
        (Path("a.jpg"), "read it with spnet_d2.search.read_image_bgr"),
        (Image.new("RGB", (5, 5)), r"found Image: give np.asarray\(image.convert"),
        ([[0]], "found list"),
    ],
)
def test_what_is_no_array(image, message):
    predictor = make_predictor()
    for call in (
        lambda: predictor.detect([image]),
        lambda: predictor.embed(image, [(0, 0, 1, 1)]),
        lambda: predictor.query(image, (0, 0, 1, 1)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_fingerprint_depends_on_all_that_changes_people(trained):
    cfg, path, _ = trained

    def predictor(*pairs):
        changed = cfg.clone()
        changed.merge_from_list(list(pairs))
        return PersonSearchPredictor(changed, weights=path)

    usual = predictor().fingerprint
    for key, value in (
        ("INPUT.MIN_SIZE_TEST", 64),
        ("INPUT.MAX_SIZE_TEST", 128),
        ("INPUT.AUG_TEST", "none"),
        ("INPUT.EXACT_8BIT", True),
        ("MODEL.PIXEL_STD", [50.0, 50.0, 50.0]),
        ("MODEL.SPNET.TEST_PATHWAY", "QC"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.4),
        ("TEST.DETECTIONS_PER_IMAGE", 10),
        ("MODEL.SPNET.TEST.PRECISION", "bfloat16"),
    ):
        assert predictor(key, value).fingerprint != usual, key
    for key, value in (
        ("OUTPUT_DIR", "elsewhere"),
        ("SOLVER.BASE_LR", 0.5),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3),
    ):
        assert predictor(key, value).fingerprint == usual, key


def test_fingerprint_sees_statistics_but_not_memories(trained):
    cfg, path, _ = trained
    usual = PersonSearchPredictor(cfg, weights=path).fingerprint
    for part, differs in (("running_mean", True), ("reid_loss.queue", False)):
        predictor = PersonSearchPredictor(cfg, weights=path)
        name, buffer = next((n, b) for n, b in predictor.model.named_buffers() if part in n)
        buffer.view(-1)[0] += 1
        assert (predictor.fingerprint != usual) == differs, name
