"""Miniature corpora, byte for byte in the formats of the real ones, with every known trap in them.

Structures are saved as MATLAB v5 would: struct arrays are (1, n) NumPy structured arrays of
objects, cell arrays are (n, 1) object arrays. Pictures show flat people, one colour per identity,
so that a test can also look at pixels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.io import savemat

Box = tuple[float, float, float, float]

# ------------------------------------------------------------------ MATLAB structures and pictures


def struct(names: Sequence[str], records: Sequence[Sequence[Any]]) -> np.ndarray:
    """A (1, n) MATLAB struct array."""
    array = np.empty((1, len(records)), dtype=[(name, object) for name in names])
    for index, record in enumerate(records):
        array[0, index] = tuple(record)
    return array


def cell(entries: Sequence[Any]) -> np.ndarray:
    """An (n, 1) MATLAB cell array."""
    array = np.empty((len(entries), 1), dtype=object)
    for index, entry in enumerate(entries):
        array[index, 0] = entry
    return array


def number(value: int) -> np.ndarray:
    """A (1, 1) number."""
    return np.array([[value]], dtype=np.uint8)


def stored_box(box: Box | None) -> np.ndarray:
    """A (1, 4) box in the smallest type that holds it, as MATLAB stores it; (1, 0) for none."""
    if box is None:
        return np.empty((1, 0), dtype=np.float64)
    return np.array([box], dtype=np.uint8 if max(box) <= 255 else np.uint16)


def save(path: Path, **variables: Any) -> None:
    """``savemat`` with folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def picture(
    path: Path, size: tuple[int, int], people: Sequence[tuple[int, Box]], grey: bool = False
) -> None:
    """A JPEG with one rectangle per (identity, box)."""
    image = Image.new("RGB", size, (96, 104, 112))
    draw = ImageDraw.Draw(image)
    for person, (x, y, width, height) in people:
        colour = ((person * 67) % 256, (person * 131 + 40) % 256, (person * 29 + 90) % 256)
        if width >= 1 and height >= 1:
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert("L") if grey else image).save(path, quality=90)


# ------------------------------------------------------------------------------------- CUHK-SYSU

CUHK_PAIRS = 12
CUHK_SIZE = (320, 240)
# x + w = 300 overflows the uint8 that this box is stored in.
OVERFLOW_BOX = (200, 30, 100, 150)
EQUAL_BOX = (60, 40, 50, 120)
STRANGER_BOX = (150, 60, 45, 130)


def _train_scene(pair: int, second: bool) -> Box:
    return (10 + pair, 20 + pair, 40 + pair, 100 + 5 * second)


# Identities of Train.mat: appearances (image, box). Twelve people in two images each; one in three
# images, the last of which shows the person twice; one whose box has an equal twin in its image.
CUHK_TRAIN = [
    [(f"s{2 * pair + second + 1}.jpg", _train_scene(pair, bool(second))) for second in (0, 1)]
    for pair in range(CUHK_PAIRS)
]
CUHK_TRAIN += [
    [
        ("s25.jpg", (20, 20, 60, 150)),
        ("s26.jpg", (30, 20, 60, 150)),
        ("s27.jpg", (40, 20, 60, 150)),
        ("s27.jpg", OVERFLOW_BOX),
    ],
    [("s28.jpg", EQUAL_BOX), ("s29.jpg", (60, 40, 52, 120))],
]
ZERO_WIDTH_IMAGE = "s1.jpg"
EQUAL_BOXES_IMAGE = "s28.jpg"
CUHK_TEST_IMAGES = [f"s{number}.jpg" for number in range(101, 113)]
TINY_BOX = (5, 6, 10, 20)
# Queries: identity name, (image, box), positives (image, box), negatives.
CUHK_QUERIES = [
    # The positive s102 is listed a second time at the end, as some real galleries do.
    (
        "p9001",
        ("s101.jpg", (10, 10, 40, 100)),
        [("s102.jpg", (20, 10, 40, 100)), ("s103.jpg", (30, 10, 40, 100))],
        ["s104.jpg", "s105.jpg", "s106.jpg", "s102.jpg"],
    ),
    # A positive so small that the threshold is 0.3333.
    (
        "p9002",
        ("s104.jpg", (20, 20, 50, 110)),
        [("s105.jpg", TINY_BOX)],
        ["s101.jpg", "s107.jpg", "s109.jpg", "s102.jpg", "s103.jpg"],
    ),
    # The person is twice in s107.
    (
        "p9003",
        ("s106.jpg", (40, 30, 45, 120)),
        [("s107.jpg", (50, 30, 45, 120)), ("s107.jpg", OVERFLOW_BOX)],
        ["s108.jpg", "s101.jpg", "s102.jpg", "s104.jpg"],
    ),
    # The query box occurs twice in its image.
    (
        "p9004",
        ("s108.jpg", EQUAL_BOX),
        [("s109.jpg", (60, 40, 55, 120))],
        ["s110.jpg", "s111.jpg", "s112.jpg", "s101.jpg", "s103.jpg"],
    ),
]
CUHK_GALLERY_FILES = {
    "train_test/TestG50.mat": "TestG50",
    "train_test/TestG100.mat": "TestG100",
    "train_test/TestG500.mat": "TestG500",
    "train_test/TestG1000.mat": "TestG1000",
    "train_test/TestG2000.mat": "TestG2000",
    "train_test/TestG4000.mat": "TestG4000",
}


def cuhk_boxes() -> dict[str, list[tuple[int, Box]]]:
    """All (colour number, box) by image in file order; unknown people come first."""
    names = [f"s{number}.jpg" for number in range(1, 31)] + CUHK_TEST_IMAGES
    boxes: dict[str, list[tuple[int, Box]]] = {
        name: [(200 + index, STRANGER_BOX)] for index, name in enumerate(names)
    }
    people = [*CUHK_TRAIN, *([query, *positives] for _, query, positives, _ in CUHK_QUERIES)]
    for person, appearances in enumerate(people, start=1):
        for name, box in appearances:
            if (person, box) not in boxes[name]:
                boxes[name].append((person, box))
    for name in (EQUAL_BOXES_IMAGE, "s108.jpg"):
        boxes[name].append((150, EQUAL_BOX))
    boxes[ZERO_WIDTH_IMAGE].insert(0, (151, (100, 100, 0, 50)))
    return boxes


def _search_records(names: tuple[str, ...], order: int) -> np.ndarray:
    """The records of one protocol; ``order`` turns the negatives, so that galleries differ."""
    fields = ("imname", "idlocate", "ishard")
    empty = np.empty((1, 0), dtype=np.float64)
    records = []
    for idname, (image, box), positives, negatives in CUHK_QUERIES:
        query = struct(
            ("imname", "idlocate", "ishard", "idname"),
            [(image, stored_box(box), number(0), idname)],
        )
        turned = negatives[order % len(negatives) :] + negatives[: order % len(negatives)]
        gallery = [(name, stored_box(found), number(0)) for name, found in positives]
        gallery += [(name, stored_box(None), empty) for name in turned]
        records.append((query, struct(fields, gallery), number(1))[: len(names)])
    return struct(names, records)


def build_cuhk_sysu(root: Path) -> Path:
    """Write a miniature CUHK-SYSU: 30 training and 12 test images, 14 and 4 identities."""
    boxes = cuhk_boxes()
    for index, (name, people) in enumerate(boxes.items()):
        size = (240, 320) if name == "s30.jpg" else CUHK_SIZE
        picture(root / "Image/SSM" / name, size, people, grey=index == 3)
    annotation = root / "annotation"
    records = []
    for name, people in boxes.items():
        marked = struct(("idlocate", "ishard"), [(stored_box(box), number(0)) for _, box in people])
        records.append((name, number(len(people)), marked))
    save(annotation / "Images.mat", Img=struct(("imname", "nAppear", "box"), records))
    save(annotation / "pool.mat", pool=cell(CUHK_TEST_IMAGES))

    fields = ("idname", "nAppear", "scene")
    train = []
    for person, appearances in enumerate(CUHK_TRAIN):
        scenes = struct(
            ("imname", "idlocate", "ishard"),
            [(name, stored_box(box), number(0)) for name, box in appearances],
        )
        train.append((f"p{700 + person}", number(len(appearances)), scenes))
    people = struct(fields, train)
    save(annotation / "Person.mat", Person=people)
    cells = cell([struct(fields, [record]) for record in train])
    save(annotation / "test/train_test/Train.mat", Train=cells)
    for order, (file, variable) in enumerate(CUHK_GALLERY_FILES.items()):
        save(annotation / "test" / file, **{variable: _search_records(("Query", "Gallery"), order)})
    occluded = _search_records(("Query", "Gallery", "occlusion"), 1)
    save(annotation / "test/subset/Occlusion.mat", Occlusion1=occluded[:, :2])
    small = _search_records(("Query", "Gallery"), 2)
    save(annotation / "test/subset/Resolution.mat", Test_Size=small[:, 1:3])
    return root


# -------------------------------------------------------------------------------------------- PRW

# Frame: rows of id, x, y, w, h as in the annotation files, negative and fractional ones included.
PRW_TRAIN = {
    "c1s1_000151": [(1, -3.5, 10.2, 40.7, 100.9), (-2, 700.5, 300.0, 90.0, 200.0)],
    "c1s1_000176": [(1, 60.0, 200.0, 80.0, 210.0), (2, 400.0, 200.0, 81.0, 190.0)],
    "c2s1_000201": [(1, 90.0, 210.0, 80.0, 210.0), (2, 500.0, 200.0, 81.0, 190.0)],
    "c6s1_000226": [(1, 10.0, 200.0, 50.0, 160.0), (3, 300.0, 200.0, 51.0, 150.0)],
    "c6s1_000251": [(3, 320.0, 200.0, 51.0, 150.0), (-2, 680.0, 500.0, 60.0, 90.0)],
    "c2s1_000276": [(932, 1000.0, 500.0, 100.0, 240.0), (3, 1300.0, 400.0, 90.0, 210.0)],
    "c1s1_000301": [(932, 1100.0, 500.0, 100.0, 240.0), (932, 100.0, 500.0, 90.0, 230.0)],
    "c1s1_000326": [(-2, 1900.0, 900.0, 40.0, 200.0)],
    "c2s1_000351": [(478, 300.0, 300.0, 90.0, 200.0), (-2, 30.0, 300.0, 90.0, 200.0)],
    "c1s1_000376": [(478, 350.0, 300.0, 90.0, 200.0)],
}
PRW_TEST = {
    "c1s3_016471": [(479, 1271.38, 300.9, 60.2, 182.7), (-2, 100.0, 100.0, 70.0, 180.0)],
    "c1s3_016496": [(479, 1201.0, 300.0, 61.0, 180.0), (2, 300.0, 250.0, 80.0, 200.0)],
    "c6s3_016521": [(479, 201.0, 300.0, 60.0, 170.0), (933, 400.0, 250.0, 55.0, 160.0)],
    "c5s2_042630": [(500, 1859.4, 280.2, 59.9, 182.3)],
    "c5s2_082752": [(501, 77.0, 385.0, 119.99, 219.5)],
    "c5s2_120599": [(502, 241.0, 390.0, 119.6, 315.0), (500, 900.0, 390.0, 110.0, 300.0)],
    "c3s2_120624": [(501, -7.25, 385.0, 118.0, 219.0), (502, 600.0, 380.0, 117.0, 310.0)],
}
PRW_QUERIES = [
    "479 1271.38 300.9 60.2 182.7 c1s3_016471",
    "500 1859 280 60 182 c5s2_042630",
    "501 77 385 120 219 c5s2_082752",
    "502 241 390 120 315 c5s2_120599",
    "501 -7.25 385 118 219 c3s2_120624",
]
PRW_VARIABLES = ("box_new", "anno_file", "anno_previous")


def prw_size(frame: str) -> tuple[int, int]:
    """Camera 6 is smaller than the others."""
    return (720, 576) if frame.startswith("c6") else (1920, 1080)


def build_prw(root: Path) -> Path:
    """Write a miniature PRW: 10 training and 7 test frames, 5 queries."""
    frames = {**PRW_TRAIN, **PRW_TEST}
    for index, (frame, rows) in enumerate(frames.items()):
        people = [(int(row[0]), row[1:]) for row in rows]
        picture(root / "frames" / f"{frame}.jpg", prw_size(frame), people)
        content = {PRW_VARIABLES[index % 3]: np.array(rows, dtype=np.float64)}
        if index == 0:
            # Where a file has several, box_new counts.
            content["anno_previous"] = np.array([(77, 1.0, 1.0, 5.0, 5.0)])
        save(root / "annotations" / f"{frame}.jpg.mat", **content)
    save(root / "frame_train.mat", img_index_train=cell(list(PRW_TRAIN)))
    save(root / "frame_test.mat", img_index_test=cell(list(PRW_TEST)))
    save(root / "ID_train.mat", ID_train=np.array([[1, 2, 3, 478, 932]], dtype=np.uint16))
    save(root / "ID_test.mat", ID_test2=np.array([[479, 500, 501, 502]], dtype=np.uint16).T)
    (root / "query_info.txt").write_bytes("".join(f"{q}\r\n" for q in PRW_QUERIES).encode())
    return root


# ------------------------------------------------------------------------------------------- COCO

# Image id: (width, height), number of people. Ids are not in order, as in the real file.
COCO_PEOPLE = {579: ((640, 480), 6), 9: ((480, 640), 1), 30: ((500, 375), 7), 42: ((640, 427), 5)}
COCO_CATS_ONLY, COCO_CROWD_ONLY, COCO_GREY = 25, 36, 42
COCO_CATEGORIES = [
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "animal", "id": 17, "name": "cat"},
]


def _coco_entry(number: int, image: int, category: int, box: Sequence[float]) -> dict[str, Any]:
    x, y, width, height = box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        # The area of the mask, smaller than the box.
        "area": round(0.6 * width * height, 4),
        "iscrowd": 0,
        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
    }


def coco_instances(people: dict[int, tuple[tuple[int, int], int]], first_id: int) -> dict[str, Any]:
    """``instances_*.json`` with the given people, cats, crowds and images that must vanish."""
    rng = np.random.RandomState(3)
    sizes = {image: size for image, (size, _) in people.items()}
    sizes |= {COCO_CATS_ONLY: (400, 300), COCO_CROWD_ONLY: (400, 300)}
    annotations, number = [], first_id
    for image, ((width, height), count) in people.items():
        for index in range(count):
            x, y = rng.uniform(0, 0.5 * width), rng.uniform(0, 0.4 * height)
            box = [round(v, 2) for v in (x, y, 0.1 * width + 3 * index, 0.5 * height)]
            if index == 4:
                # A fraction beyond the border.
                box = [0.0, 0.0, width + 0.37, height + 0.11]
            annotations.append(_coco_entry(number, image, 1, box))
            number += 1
    for image in (COCO_CATS_ONLY, next(iter(people))):
        annotations.append(_coco_entry(number, image, 17, [5.5, 6.25, 30.0, 20.0]))
        number += 1
    for image in (COCO_CROWD_ONLY, next(iter(people))):
        crowd = _coco_entry(900100000000 + image, image, 1, [1.0, 2.0, 200.0, 100.0])
        crowd["iscrowd"] = 1
        crowd["segmentation"] = {"counts": [272, 2, 4, 4], "size": [300, 400]}
        annotations.append(crowd)
    images = [
        {
            "id": image,
            "file_name": f"{image:012d}.jpg",
            "width": width,
            "height": height,
            "license": 3,
            "coco_url": f"http://images.cocodataset.org/train2017/{image:012d}.jpg",
            "flickr_url": "http://farm1.staticflickr.com/1/1_z.jpg",
            "date_captured": "2013-11-14 11:18:45",
        }
        for image, (width, height) in sizes.items()
    ]
    return {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 3, "name": "CC"}],
        "images": images,
        "annotations": annotations,
        "categories": COCO_CATEGORIES,
    }


def build_coco(root: Path) -> Path:
    """Write a miniature COCO 2017: 6 training images, 4 with people, and 4 validation images."""
    parts = {
        # Ids from 300000 on: where made-up persons must not collide.
        "train": coco_instances(COCO_PEOPLE, 299995),
        "val": coco_instances({139: ((320, 240), 2), 285: ((240, 320), 3)}, 1700),
    }
    (root / "annotations").mkdir(parents=True)
    for part, content in parts.items():
        path = root / "annotations" / f"instances_{part}2017.json"
        path.write_text(json.dumps(content))
        for image in content["images"]:
            people = [
                (entry["id"], tuple(entry["bbox"]))
                for entry in content["annotations"]
                if entry["image_id"] == image["id"] and entry["category_id"] == 1
            ]
            target = root / f"{part}2017" / image["file_name"]
            size = (image["width"], image["height"])
            picture(target, size, people, grey=image["id"] == COCO_GREY)
    return root
