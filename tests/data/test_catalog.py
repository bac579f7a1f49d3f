"""Data sets by name: registered lazily, safely twice, and merged without mixing people up."""

import os

import pytest
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog

from spnet_d2.data import catalog
from spnet_d2.data.person_search_json import load_protocol, write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation


@pytest.fixture
def clean_catalogs():
    """Both catalogs as they were, after the test."""
    data, metadata = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    for name in data:
        if MetadataCatalog.get(name).get("evaluator_type") == "person_search":
            catalog.unregister(name)
    yield
    DatasetCatalog.data, MetadataCatalog.data = data, metadata


@pytest.fixture
def builtin(clean_catalogs, prepared_root):
    return catalog.register_builtin_datasets(prepared_root)


def write(path, people, first=0):
    """A partition with one image and one box per (person id, known)."""
    image = {"id": 0, "file_name": "a.jpg", "width": 90, "height": 90}
    annotations = [
        make_annotation(first + index, 0, (index, 2, 30, 40), person, known)
        for index, (person, known) in enumerate(people)
    ]
    write_person_search_json(path, [image], annotations)
    return path


def test_registering_reads_nothing(clean_catalogs, tmp_path):
    catalog.register_person_search("lazy", tmp_path / "no.json", tmp_path, tmp_path / "G7.json")
    metadata = MetadataCatalog.get("lazy")
    assert metadata.evaluator_type == "person_search" and metadata.thing_classes == ["person"]
    assert metadata.json_file == str(tmp_path / "no.json")
    assert metadata.image_root == str(tmp_path)
    assert metadata.protocols == {"G7": str(tmp_path / "G7.json")}
    with pytest.raises(FileNotFoundError, match=r"no\.json.*prepare_"):
        DatasetCatalog.get("lazy")


def test_protocols_keep_their_order(clean_catalogs, tmp_path):
    catalog.register_person_search("many", "x.json", "", {"z": "z.json", "a": tmp_path / "a.json"})
    protocols = MetadataCatalog.get("many").protocols
    assert list(protocols.items()) == [("z", "z.json"), ("a", str(tmp_path / "a.json"))]
    catalog.register_person_search("none", "x.json", "")
    assert MetadataCatalog.get("none").protocols == {}


def test_the_same_twice_is_fine_something_else_is_not(clean_catalogs):
    for _ in range(2):
        catalog.register_person_search("mine", "a.json", "images", {"p": "p.json", "q": "q.json"})
    with pytest.raises(ValueError, match=r"'mine' is registered already.*json_file"):
        catalog.register_person_search("mine", "b.json", "images", {"p": "p.json", "q": "q.json"})
    with pytest.raises(ValueError, match="differing: protocols"):
        catalog.register_person_search("mine", "a.json", "images", {"q": "q.json", "p": "p.json"})
    catalog.unregister("mine")
    catalog.register_person_search("mine", "b.json", "images")
    assert MetadataCatalog.get("mine").json_file == "b.json"


def test_foreign_names_are_not_taken_over(clean_catalogs):
    DatasetCatalog.register("prw_test", lambda: [])
    with pytest.raises(ValueError, match="'prw_test' is registered already"):
        catalog.register_builtin_datasets("somewhere")


def test_builtin_names_and_files(builtin, prepared_root):
    expected = {
        "cuhk_sysu_train": "cuhk/coco/trainval.json",
        "cuhk_sysu_test": "cuhk/coco/test.json",
        "cuhk_sysu_split_train": "cuhk/coco/train.json",
        "cuhk_sysu_minival": "cuhk/coco/minival.json",
        "prw_train": "prw/coco/trainval.json",
        "prw_test": "prw/coco/test.json",
        "prw_split_val": "prw/coco/val.json",
        "cocopersons_train": "coco/coco/train.json",
        "cocopersons_val": "coco/coco/val.json",
        "cocopersons_train_p20": "coco/coco/train_p20.json",
        "cocopersons_train_p180": "coco/coco/train_p180.json",
        "pets09_train": "pets09/train.json",
        "pets09_test": "pets09/test.json",
        "pets09_weak_train": "pets09/weak_train.json",
        "pets09_weak_train_p20": "pets09/weak_train_p20.json",
        "pets09_weak_train_p180": "pets09/weak_train_p180.json",
        "pets09_hog_train": "pets09/hog_train.json",
    }
    assert expected.keys() <= set(builtin) and len(set(builtin)) == len(builtin)
    for name, relative in expected.items():
        assert MetadataCatalog.get(name).json_file == os.path.join(prepared_root, relative)


def test_builtin_protocols(builtin, prepared_root):
    protocols = MetadataCatalog.get("cuhk_sysu_test").protocols
    assert list(protocols)[0] == "G100" and len(protocols) == 9
    assert all(load_protocol(path).queries for path in protocols.values())
    assert list(MetadataCatalog.get("prw_test").protocols) == [
        "test",
        "same_cam_id",
        "cross_cam_id",
    ]
    assert list(MetadataCatalog.get("pets09_test").protocols) == ["standard", "reentry"]
    assert list(MetadataCatalog.get("prw_split_val").protocols) == ["val"]
    assert MetadataCatalog.get("cuhk_sysu_train").protocols == {}


def test_builtin_data_sets_load_with_their_images(builtin):
    names = [name for name in builtin if os.path.exists(MetadataCatalog.get(name).json_file)]
    assert len(names) >= 20
    for name in names:
        for entry in DatasetCatalog.get(name):
            assert os.path.isfile(entry["file_name"]), name


def test_builtins_twice_and_under_another_root(builtin, prepared_root, tmp_path, monkeypatch):
    assert catalog.register_builtin_datasets(prepared_root) == builtin
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    catalog.register_builtin_datasets()
    assert MetadataCatalog.get("prw_test").json_file == str(tmp_path / "prw/coco/test.json")


@pytest.mark.parametrize(
    "name, command",
    [
        ("cuhk_sysu_test", "prepare_cuhk_sysu.py --dataset-dir {root}/cuhk"),
        ("prw_minival", "prepare_prw.py --dataset-dir {root}/prw"),
        ("cocopersons_train", "prepare_cocopersons.py --dataset-dir {root}/coco"),
        ("pets09_train", "prepare_pets09.py --output {root}/pets09"),
        ("pets09_hog_train", "prepare_pets09.py --weak --output {root}/pets09"),
    ],
)
def test_a_missing_corpus_names_the_command(clean_catalogs, tmp_path, name, command):
    catalog.register_builtin_datasets(tmp_path)
    for use in (DatasetCatalog.get, catalog.num_people):
        with pytest.raises(FileNotFoundError) as error:
            use(name)
        assert f"python datasets/{command.format(root=tmp_path)}" in str(error.value)


def test_merged_sets_keep_their_people_apart(clean_catalogs, tmp_path):
    known = write(tmp_path / "a.json", [(4, True), (9, True), (5555, False)])
    other = write(tmp_path / "b.json", [(5555, False), (4, True), (2, True)], first=20)
    catalog.register_person_search("a", known, tmp_path)
    catalog.register_person_search("b", other, tmp_path)
    dicts = catalog.get_training_dicts(("a", "b"))
    found = [
        [(entry["person_id"], entry["identity"]) for entry in image["annotations"]]
        for image in dicts
    ]
    assert found == [[(0, 0), (1, 1), (2, -1)], [(5, -1), (4, 3), (3, 2)]]
    assert catalog.num_identities(("a", "b")) == 4
    assert catalog.num_identities(["b"]) == 2
    # The catalog itself stays as it is.
    assert DatasetCatalog.get("b")[0]["annotations"][1]["person_id"] == 1


def test_merged_sets_keep_image_and_annotation_ids_apart(clean_catalogs, tmp_path):
    """Sets whose ids start at 0, overlap, are negative, or have no box at all."""
    contents = {
        "a": ([0, 5], [(0, 0), (3, 5)]),
        "empty": ([1], []),
        "b": ([-4, 2], [(-7, -4), (1, 2), (2, 2)]),
    }
    for name, (image_ids, boxes) in contents.items():
        size = {"file_name": "a.jpg", "width": 90, "height": 90}
        images = [{"id": number, **size} for number in image_ids]
        annotations = [
            make_annotation(number, image, (1, 2, 30, 40), 9, True) for number, image in boxes
        ]
        write_person_search_json(tmp_path / f"{name}.json", images, annotations)
        catalog.register_person_search(name, tmp_path / f"{name}.json", tmp_path)
    dicts = catalog.get_training_dicts(("a", "empty", "b"))
    assert [image["image_id"] for image in dicts] == [0, 5, 6, 7, 13]
    found = [[entry["annotation_id"] for entry in image["annotations"]] for image in dicts]
    assert found == [[0], [3], [], [4], [12, 13]]
    people = [
        (entry["person_id"], entry["identity"]) for image in dicts for entry in image["annotations"]
    ]
    assert people == [(0, 0)] * 2 + [(1, 1)] * 3
    alone = catalog.get_training_dicts(("b",))
    assert [image["image_id"] for image in alone] == [-4, 2]


def test_unknown_people_are_one_each(clean_catalogs, tmp_path):
    """A file that gives all unknown people the same id, before, between and after known ones."""
    path = write(
        tmp_path / "a.json", [(-1, False), (4, True), (-1, False), (9, True), (4, True), (7, False)]
    )
    catalog.register_person_search("a", path, tmp_path)
    other = write(tmp_path / "b.json", [(5, False), (5, False), (1, True), (5, False)])
    catalog.register_person_search("b", other, tmp_path)
    dicts = catalog.get_training_dicts(("a", "b"))
    found = [
        [(entry["person_id"], entry["identity"]) for entry in image["annotations"]]
        for image in dicts
    ]
    assert found[0] == [(0, -1), (2, 0), (1, -1), (4, 1), (2, 0), (3, -1)]
    assert found[1] == [(6, -1), (7, -1), (5, 2), (8, -1)]
    assert catalog.num_people("a") == (5, 2) and catalog.num_people("b") == (4, 1)
    assert catalog.num_identities(("a", "b")) == 3


def test_identities_of_the_miniatures(builtin):
    assert catalog.num_identities(("cuhk_sysu_train",)) == 14
    assert catalog.num_identities(("prw_train",)) == 5
    assert catalog.num_identities(("cuhk_sysu_train", "prw_train")) == 19
    dicts = catalog.get_training_dicts(("cuhk_sysu_train", "prw_train"))
    people = [entry for image in dicts for entry in image["annotations"]]
    assert {e["identity"] for e in people} == set(range(-1, 19))
    assert len({e["person_id"] for e in people}) == max(e["person_id"] for e in people) + 1
    assert len({e["annotation_id"] for e in people}) == len(people)
    assert len({image["image_id"] for image in dicts}) == len(dicts)
    unknown = [e["person_id"] for e in people if e["identity"] < 0]
    assert unknown and len(set(unknown)) == len(unknown)


def test_counts_follow_a_changed_file(clean_catalogs, tmp_path):
    path = write(tmp_path / "a.json", [(4, True)])
    catalog.register_person_search("a", path, tmp_path)
    assert catalog.num_identities(["a"]) == 1
    write(path, [(4, True), (5, True)])
    os.utime(path, ns=(1, 1))
    assert catalog.num_identities(["a"]) == 2


def test_sets_registered_elsewhere_count_by_their_dicts(clean_catalogs):
    boxes = [{"person_id": 0, "identity": 1}, {"person_id": 3, "identity": -1}]
    DatasetCatalog.register("foreign", lambda: [{"annotations": boxes}])
    assert catalog.num_people("foreign") == (4, 2)


@pytest.mark.parametrize("image", [{"image_id": 7}, {"image_id": 7, "annotations": [{"bbox": []}]}])
def test_sets_of_another_kind_are_refused(clean_catalogs, image):
    DatasetCatalog.register("objects", lambda: [{"image_id": 1, "annotations": []}, image])
    for use in (catalog.num_people, lambda name: catalog.get_training_dicts([name])):
        with pytest.raises(ValueError, match="objects is no person-search .*image 7 has no anno"):
            use("objects")


def test_a_name_twice_is_an_error(builtin):
    for names in (("prw_train", "prw_train"), "prw_train"):
        with pytest.raises(ValueError, match="different data set names"):
            catalog.get_training_dicts(names)
