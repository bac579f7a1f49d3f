"""Loaders: the same batches whatever the number of workers, and no global random state used."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image

from spnet_d2.config import add_spnet_config
from spnet_d2.data import self_supervised_boxes
from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.corrupt_images import SKIPPED, CorruptImageError
from spnet_d2.data.loaders import (
    build_test_loader,
    build_train_loader,
    iterations_per_epoch,
    warn_of_nobody,
)
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation

NAME = "loader_test_people"
NUM_IMAGES = 7


@pytest.fixture
def dataset(tmp_path):
    """Seven 40 x 30 images; the last one has nobody."""
    images, annotations = [], []
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 30})
        if number < NUM_IMAGES - 1:
            box = (4 + number, 3, 8, 20)
            annotations.append(make_annotation(number, number, box, number // 2, is_known=True))
    write_person_search_json(tmp_path / "people.json", images, annotations)
    register_person_search(NAME, tmp_path / "people.json", tmp_path)
    yield NAME
    unregister(NAME)


@pytest.fixture
def cfg(dataset):
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.DATASETS.TRAIN = (dataset,)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.INPUT.CROP_SIZE = 32
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (60,), 90
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 60, 90
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 3
    return cfg


def take(loader, number):
    """(image id, pixels, boxes) of the first batches."""
    iterator = iter(loader)
    found = [
        [(d["image_id"], d["image"], d["instances"].gt_boxes.tensor) for d in batch]
        for batch in islice(iterator, number)
    ]
    del iterator
    return found


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second):
        assert [entry[0] for entry in one] == [entry[0] for entry in other]
        for a, b in zip(one, other):
            assert torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])


def test_workers_and_global_seeds_do_not_matter(cfg):
    whole = take(build_train_loader(cfg), 4)
    assert all(len(batch) == 4 for batch in whole)
    np.random.seed(9)
    torch.manual_seed(9)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal(take(build_train_loader(cfg), 4), whole)


@pytest.mark.parametrize("views", [1, 2])
def test_resuming_continues(cfg, views):
    cfg.DATALOADER.VIEWS_PER_IMAGE = views
    whole = take(build_train_loader(cfg), 6)
    assert_equal(take(build_train_loader(cfg, start_iter=3), 3), whole[3:])


def test_global_random_states_are_left_alone(cfg):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    take(build_train_loader(cfg), 2)
    take(build_test_loader(cfg, NAME), 2)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def test_two_views_differ(cfg):
    cfg.DATALOADER.VIEWS_PER_IMAGE = 2
    (batch,) = take(build_train_loader(cfg), 1)
    assert batch[0][0] == batch[1][0] and batch[2][0] == batch[3][0] != batch[0][0]
    assert not torch.equal(batch[0][1], batch[1][1])


def test_random_boxes_are_the_same_in_both_views_and_new_every_epoch(cfg, monkeypatch):
    cfg.DATALOADER.VIEWS_PER_IMAGE = 2
    cfg.INPUT.SSL_BOXES = "iou"
    monkeypatch.setattr(self_supervised_boxes, "NUM_BOXES", 2)
    # The image without people gets boxes like any other.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    # Only crops that keep every box, so that nobody is lost.
    cfg.INPUT.RSC_PROB = float("inf")
    assert iterations_per_epoch(cfg) == 4
    people = []
    for batch in islice(build_train_loader(cfg), 8):
        for first, second in zip(batch[::2], batch[1::2]):
            ids = first["instances"].gt_person_ids
            assert len(ids) == 2 and torch.equal(ids, second["instances"].gt_person_ids)
            assert first["instances"].gt_identities.tolist() == [-1, -1]
            people += ids.tolist()
    assert sorted(people) == list(range(2 * NUM_IMAGES * 2))
    whole = take(build_train_loader(cfg), 3)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal(take(build_train_loader(cfg), 3), whole)


def cut_off(tmp_path, *numbers):
    for number in numbers:
        path = tmp_path / f"{number}.png"
        path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_image_stops_with_its_name(cfg, tmp_path, workers):
    cut_off(tmp_path, 3)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.VIEWS_PER_IMAGE = 2
    with pytest.raises(CorruptImageError, match=r"Cannot read .*/3\.png"):
        take(build_train_loader(cfg), 4)  # an epoch


@pytest.mark.parametrize("views", [1, 2])
def test_next_image_replaces_corrupt_ones(cfg, tmp_path, views):
    """The others stay as they were, with any number of workers, and after a resume."""
    cfg.DATALOADER.VIEWS_PER_IMAGE = views
    cfg.DATALOADER.ON_CORRUPT_IMAGE = "skip"
    sound = take(build_train_loader(cfg), 8)
    cut_off(tmp_path, 0, 5, 6)
    found = take(build_train_loader(cfg), 8)
    replacement, replaced = {0: 1, 5: 1, 6: 1}, 0
    for before, after in zip(sum(sound, []), sum(found, [])):
        assert after[0] == replacement.get(before[0], before[0])
        if before[0] not in replacement:
            assert torch.equal(after[1], before[1]) and torch.equal(after[2], before[2])
        replaced += before[0] in replacement
    assert replaced > 8
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal(take(build_train_loader(cfg), 8), found)
    assert_equal(take(build_train_loader(cfg, start_iter=5), 3), found[5:])


def test_without_any_sound_image(cfg, tmp_path):
    cut_off(tmp_path, *range(NUM_IMAGES))
    cfg.DATALOADER.ON_CORRUPT_IMAGE = "skip"
    with pytest.raises(CorruptImageError, match=r"None of the 7 training .* /.*/0\.png"):
        take(build_train_loader(cfg), 1)


@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_missing_images_are_skipped_as_damaged_ones(cfg, tmp_path, damage):
    """In training the next one stands in, in evaluation they are black; both say so."""
    cut_off(tmp_path, 3)
    if damage == "missing":
        (tmp_path / "3.png").unlink()
    for loader in (build_train_loader(cfg), build_test_loader(cfg, NAME)):
        with pytest.raises((CorruptImageError, FileNotFoundError), match=r"/3\.png"):
            list(islice(loader, 7))
    cfg.DATALOADER.ON_CORRUPT_IMAGE = "skip"
    trained = [x for batch in islice(build_train_loader(cfg), 8) for x in batch]
    assert 3 not in {x["image_id"] for x in trained}
    assert str(tmp_path / "3.png") in {file for x in trained for file in x.get(SKIPPED, ())}
    tested = [x for batch in build_test_loader(cfg, NAME) for x in batch]
    assert [x["image_id"] for x in tested] == list(range(NUM_IMAGES))
    assert [x["image_id"] for x in tested if SKIPPED in x] == [3]
    assert not tested[3]["image"].any() and len(tested[3]["instances"]) == 1
    assert tested[3]["image"].shape == tested[2]["image"].shape


def test_training_sets_without_boxes_are_named(cfg, caplog):
    warn_of_nobody(cfg, [{"annotations": []}, {"annotations": []}])
    assert f"{NAME}: none of the 2 training images has a box" in caplog.text
    caplog.clear()
    warn_of_nobody(cfg, [{"annotations": []}, {"annotations": [{"identity": -1}]}])
    assert not caplog.text


def test_iterations_per_epoch(cfg):
    assert iterations_per_epoch(cfg) == 1
    cfg.DATALOADER.VIEWS_PER_IMAGE = 2
    assert iterations_per_epoch(cfg) == 4
    assert build_train_loader(cfg).batch_sampler.batches_per_epoch == 4
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert iterations_per_epoch(cfg) == 3


def test_seeds_change_the_order(cfg):
    orders = []
    for seed in (3, 4, -1, -1):
        cfg.SEED = seed
        orders.append(
            tuple(image_id for b in take(build_train_loader(cfg), 8) for image_id, *_ in b)
        )
    assert len(set(orders)) == 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_test_loader(cfg, batch_size, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    found = [
        entry for batch in take(build_test_loader(cfg, NAME, batch_size), 99) for entry in batch
    ]
    assert [image_id for image_id, *_ in found] == list(range(NUM_IMAGES))
    assert all(image.shape == (3, 60, 80) for _, image, _ in found)
    assert [len(boxes) for *_, boxes in found] == [1] * (NUM_IMAGES - 1) + [0]
