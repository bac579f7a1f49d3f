"""Labels by a detector, and tools/autolabel.py."""

import json

import cv2
import numpy as np
import pytest
import torch
import yaml

from spnet_d2.data import own_sets
from spnet_d2.data.catalog import unregister
from spnet_d2.data.own_sets import read_sets
from spnet_d2.data.person_search_json import load_person_search_json, load_person_search_table
from spnet_d2.data.tracklets import LinkRules
from spnet_d2.search import Gallery, PersonDetections, open_frames
from spnet_d2.search.autolabel import (
    AutolabelError,
    Choices,
    compare_labels,
    source_names,
    write_labels,
)
from spnet_d2.search.torchvision_detector import TorchvisionDetector
from spnet_d2.search.two_stage.settings import ModelFileError
from tests.fixtures.onnx_files import write_detector
from tests.fixtures.scripts import load_script

SIZE = (60, 120)


class Blobs:
    """Finds what is not grey, and embeds it by its colour."""

    fingerprint = "blobs"
    settings: dict = {}

    def detect(self, images, query=None):
        found = []
        for image in images:
            mask = (np.ptp(image.astype(int), axis=2) > 60).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            boxes = [[x, y, x + w, y + h] for x, y, w, h, area in stats[1:].tolist() if area > 30]
            boxes = np.array(boxes, np.float32).reshape(-1, 4)
            colours = [image[int(b[1] + b[3]) // 2, int(b[0] + b[2]) // 2] for b in boxes]
            colours = np.array(colours, np.float32).reshape(-1, 3)
            found.append(PersonDetections(boxes, np.full(len(boxes), 0.9, np.float32), colours))
        return found


def frame(i: int) -> np.ndarray:
    """A red person walks right, a blue one left; frame 5 shows nobody."""
    image = np.full((*SIZE, 3), 90, np.uint8)
    if i != 5:
        image[10:50, 4 + 3 * i : 18 + 3 * i] = (20, 30, 230)
        image[8:52, 100 - 3 * i : 112 - 3 * i] = (230, 40, 20)
    return image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "walk").mkdir()
    for i in range(9):
        cv2.imwrite(str(tmp_path / "walk" / f"cam_{i:03}.png"), frame(i))
    return tmp_path / "walk"


@pytest.fixture
def video(tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / "hall.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1]
    )
    for i in range(9):
        writer.write(frame(i))
    writer.release()
    return tmp_path / "hall.avi"


def label(sources, output, every=1, **choices):
    galleries = [
        Gallery.build(Blobs(), open_frames(source, every), progress=False) for source in sources
    ]
    names = source_names(sources)
    return write_labels(galleries, names, output, "mine", Choices(**choices))


def test_every_box_is_a_person_of_its_own(folder, tmp_path):
    partition, report = label([folder], tmp_path / "out")
    dicts = load_person_search_json(tmp_path / "out" / "annotations.json", folder)
    assert [len(d["annotations"]) for d in dicts] == [2] * 5 + [0] + [2] * 3
    people = [a["person_id"] for d in dicts for a in d["annotations"]]
    assert len(set(people)) == 16
    assert all(entry["is_known"] for entry in partition["annotations"])
    boxes = {tuple(a["bbox"]) for a in dicts[2]["annotations"]}
    assert boxes == {(10, 10, 14, 40), (94, 8, 12, 44)}
    assert "9 images in" in report and "nobody was found: 1" in report
    # The images stay where they are.
    assert not (tmp_path / "out" / "images").exists()
    (entry,) = read_sets(tmp_path / "out" / "datasets.yaml")
    assert (entry.name, entry.images) == ("mine", folder)
    assert cv2.imread(str(tmp_path / "out" / "preview.jpg")) is not None


def test_tracklets_are_people(folder, tmp_path):
    partition, report = label(
        [folder], tmp_path / "out", drop_empty=True, tracklets=LinkRules(min_similarity=0.9)
    )
    assert len(partition["images"]) == 8
    colours = {}
    for entry in partition["annotations"]:
        assert entry["is_known"] and entry["track_id"] == entry["person_id"]
        colours.setdefault(entry["person_id"], []).append(entry["bbox"][3])
    assert sorted(map(tuple, colours.values())) == [(40.0,) * 8, (44.0,) * 8]
    assert "2 tracklets of 3 boxes or more hold 16 boxes; the other 0" in report


def test_short_tracklets_are_unknown_people(folder, tmp_path):
    partition, _ = label([folder], tmp_path / "out", tracklets=LinkRules(max_gap=1), min_length=4)
    known = [entry["is_known"] for entry in partition["annotations"]]
    # Frame 5 ends both; three boxes each come after it.
    assert known == [True] * 10 + [False] * 6
    ids = [entry["person_id"] for entry in partition["annotations"]]
    assert len(set(ids)) == 2 + 6
    load_person_search_json(tmp_path / "out" / "annotations.json", folder)


def test_frames_of_videos_and_images_of_folders_are_put_together(folder, video, tmp_path):
    partition, _ = label([video, folder], tmp_path / "out", every=2, min_height=42)
    names = [image["file_name"] for image in partition["images"]]
    assert names == [f"hall/{i:06}.jpg" for i in range(0, 9, 2)] + [
        f"walk/cam_{i:03}.png" for i in range(0, 9, 2)
    ]
    for name in names:
        assert cv2.imread(str(tmp_path / "out" / "images" / name)).shape == (*SIZE, 3)
    assert [image["cam_id"] for image in partition["images"]] == [0] * 5 + [1] * 5
    assert partition["images"][1]["time"] == pytest.approx(0.2)
    # The red one is 40 pixels high.
    assert all(entry["bbox"][3] >= 42 for entry in partition["annotations"])
    (entry,) = read_sets(tmp_path / "out" / "datasets.yaml")
    assert entry.images == tmp_path / "out" / "images"


def test_cameras_of_one_folder_are_not_linked(tmp_path):
    (tmp_path / "two").mkdir()
    for camera in ("cor", "front"):
        for i in range(4):
            cv2.imwrite(str(tmp_path / "two" / f"{camera}_{i:04}.png"), frame(i))
    partition, _ = label([tmp_path / "two"], tmp_path / "out", tracklets=LinkRules())
    assert {image["cam_id"] for image in partition["images"]} == {0, 1}
    assert len({entry["person_id"] for entry in partition["annotations"]}) == 4


def test_nobody_at_all(folder, tmp_path):
    with pytest.raises(AutolabelError, match="Nobody was found in 9 frames: lower --min-score"):
        label([folder], tmp_path / "out", min_height=50)


def test_names_of_sources():
    assert source_names(["a/x.mp4", "b/x", "c d/", "x_2"]) == ["x", "x_2", "c_d", "x_2_2"]


def test_compared_with_the_truth(folder, tmp_path):
    linked, _ = label([folder], tmp_path / "true", tracklets=LinkRules(min_similarity=0.9))
    truth = load_person_search_table(tmp_path / "true" / "annotations.json")
    same = compare_labels(linked, truth)
    assert (same.precision, same.recall, same.wrong) == (1, 1, 0)
    assert (same.tracklets.purity, same.tracklets.pair_recall) == (1, 1)
    # Half of one track is given to the other; a box is lost, and one is nowhere.
    mixed = json.loads(json.dumps(linked))
    reds = [e for e in mixed["annotations"] if e["bbox"][3] == 40]
    blue = next(e["track_id"] for e in mixed["annotations"] if e["bbox"][3] == 44)
    for entry in reds[:4]:
        entry["track_id"] = blue
    reds[7]["bbox"] = [0, 0, 5, 5]
    found = compare_labels(mixed, truth)
    assert (found.precision, found.recall, found.wrong) == (15 / 16, 15 / 16, 1)
    # Tracks of 12 (8 blue, 4 red) and 3 boxes.
    assert found.tracklets.purity == pytest.approx(11 / 15)
    assert found.tracklets.pair_precision == pytest.approx((28 + 6 + 3) / (66 + 3))
    assert found.tracklets.pair_recall == pytest.approx((28 + 6 + 3) / (28 + 21))
    mixed["images"] = [image | {"file_name": f"no{image['id']}.png"} for image in mixed["images"]]
    with pytest.raises(AutolabelError, match="names none of these images"):
        compare_labels(mixed, truth)


@pytest.fixture
def detector(tmp_path):
    pytest.importorskip("onnxruntime")
    rows = [[0, 1, 0.9, 0.1, 0.1, 0.3, 0.9], [0, 1, 0.6, 0.5, 0.2, 0.7, 0.9]]
    write_detector(tmp_path / "det.onnx", SIZE, {"found": np.array([[rows]], np.float32)})
    values = {"network": "det.onnx", "licence": "none", "size": [*SIZE], "channels": "BGR"}
    values |= {"layout": "ssd", "person": 1, "nms": 1}
    (tmp_path / "det.yaml").write_text(yaml.safe_dump(values))
    return str(tmp_path / "det.yaml")


def test_the_tool(folder, detector, tmp_path, capsys):
    tool = load_script("tools/autolabel.py")
    output = tmp_path / "my set"
    argv = [str(folder), "--output", str(output), "--detector", detector, "--every", "2"]
    assert tool.main([*argv, "--tracklets"]) == 0
    out = capsys.readouterr().out
    assert "5 images in" in out and "2 tracklets of 3 boxes or more hold 10 boxes" in out
    assert f"data set my_set: use it with DATASETS.FILES {output}/datasets.yaml" in out
    # Other choices go on from what was found, and are compared with labels.
    truth = tmp_path / "truth.json"
    truth.write_text((output / "annotations.json").read_text())
    (folder / "cam_000.png").touch()
    assert tool.main([*argv, "--min-score", "0.7", "--truth", str(truth)]) == 0
    out = capsys.readouterr().out
    assert "5 boxes" in out and "precision 1.000, recall 0.500" in out
    assert out == (output / "report.txt").read_text()
    own_sets._registered.clear()
    assert own_sets.register_sets([output / "datasets.yaml"]) == ["my_set"]
    unregister("my_set")
    own_sets._registered.clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detector", "none.yaml"], "No YAML file of a network at"),
        (["--detector", "torchvision:yolo"], "torchvision has no detector yolo; it has"),
        ([], "No predictor"),
    ],
)
def test_what_the_tool_cannot_use(folder, tmp_path, capsys, options, message):
    tool = load_script("tools/autolabel.py")
    assert tool.main([str(folder), "--output", str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err


class _Found(torch.nn.Module):
    """A torchvision detector's interface: the red channel of the first pixel is the score."""

    def forward(self, images):
        boxes = torch.tensor([[5.0, 5, 20, 50], [1, 1, 9, 9], [50, 5, 300, 50]])
        scores = torch.stack([images[0][0, 0, 0], torch.tensor(0.99), torch.tensor(0.55)])
        return [{"boxes": boxes, "labels": torch.tensor([1, 2, 1]), "scores": scores}]


def test_torchvision_detectors():
    detector = TorchvisionDetector(_Found(), person=1, name="found")
    image = np.full((*SIZE, 3), (51, 0, 204), np.uint8)
    boxes, scores = detector.detect(image, "BGR")
    np.testing.assert_allclose(scores, [0.8, 0.55], rtol=1e-6)
    np.testing.assert_allclose(boxes, [[5, 5, 20, 50], [50, 5, 120, 50]])
    assert len(detector.detect(image, "RGB")[0]) == 1
    assert len(TorchvisionDetector(_Found(), 1, "found", 0.1).detect(image, "RGB")[0]) == 2


def test_torchvision_weights_that_cannot_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.get_model", offline)
    with pytest.raises(ModelFileError, match=r"Can't get the weights of .* \(no route to host\)"):
        TorchvisionDetector.load("fasterrcnn_mobilenet_v3_large_320_fpn")
