"""The preview tool, from registered data set to sheets."""

import cv2
import numpy as np
import pytest
from PIL import Image

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.search import ImageFolder
from tests.fixtures.scripts import load_script

NAME = "preview_test_people"


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/visualize_data.py")


@pytest.fixture
def dataset(tmp_path):
    """Five black 80 x 60 images with a known and an unknown person each."""
    images, annotations = [], []
    for number in range(5):
        Image.new("RGB", (80, 60)).save(tmp_path / f"{number}.png")
        images.append(
            {
                "id": number,
                "file_name": f"{number}.png",
                "width": 80,
                "height": 60,
                "ignore_regions": [[60, 5, 15, 20]],
            }
        )
        for place, known in enumerate((True, False)):
            annotations.append(
                make_annotation(
                    2 * number + place,
                    number,
                    (10 + 25 * place, 20, 12, 30),
                    1 if known else 100 + number,
                    known,
                )
            )
    write_person_search_json(tmp_path / "people.json", images, annotations)
    register_person_search(NAME, tmp_path / "people.json", tmp_path)
    yield tmp_path
    unregister(NAME)


def run(tool, folder, *arguments):
    output = folder / "sheets"
    tool.main(["--dataset", NAME, "--output", str(output), "--height", "120", *arguments])
    return [cv2.imread(str(path)) for path in sorted(output.glob("*.png"))]


def test_annotated_images(tool, dataset):
    (sheet,) = run(tool, dataset)
    # Five images of 160 x 120 in rows of three.
    assert sheet.shape == (2 * 124, 3 * 160 + 2 * 4, 3)
    # The known person's coloured frame at twice its place, grey for the unknown one.
    red, green, blue = tool.person_colour(0)
    assert sheet[80, 20].tolist() == [blue, green, red]
    assert sheet[80, 70].tolist() == list(tool.UNKNOWN_COLOUR)
    # An ignore region's cross runs through its centre.
    assert sheet[28:33, 133:138].any()
    # White where the second row is short.
    assert (sheet[124:, -150:] == 255).all()


def test_training_views(tool, dataset):
    arguments = ("--augmented", "--views", "2", "--images", "3", "--rows", "2")
    sheets = run(tool, dataset, *arguments, "INPUT.CROP_SIZE", "64")
    assert [sheet.shape for sheet in sheets] == [(2 * 124, 408, 3), (124, 408, 3)]
    again = run(tool, dataset, *arguments, "INPUT.CROP_SIZE", "64")
    assert all(np.array_equal(one, other) for one, other in zip(sheets, again))


def test_random_boxes_are_shown_as_training_has_them(tool, dataset, monkeypatch):
    """Left the boxes of an epoch in the whole image, then the views of the same boxes."""
    shown = []

    def record(sample):
        shown.append(sample["instances"])
        return draw(sample)

    draw = tool.draw
    monkeypatch.setattr(tool, "draw", record)
    settings = ("INPUT.CROP_SIZE", "64", "INPUT.SSL_BOXES", "iou")
    run(tool, dataset, "--augmented", "--views", "3", "--images", "2", *settings)
    whole, views = shown[:2], shown[2:]
    # Images 0 and 4 of five: numbers that training gives them.
    assert [people.gt_person_ids.tolist() for people in whole] == [
        list(range(10)),
        list(range(40, 50)),
    ]
    assert len(views) == 6
    for people, numbers in zip(views, [range(10)] * 3 + [range(40, 50)] * 3):
        assert set(people.gt_person_ids.tolist()) <= set(numbers)
    # Without augmentation the annotations are shown.
    shown.clear()
    run(tool, dataset, "--images", "1", *settings)
    assert shown[0].gt_person_ids.tolist() == [0, 1]


def test_unknown_names_and_missing_images(tool, dataset):
    with pytest.raises(SystemExit, match="INPUT.SSL_BOXES is 'some', expected one of '', basic, "):
        run(tool, dataset, "--augmented", "INPUT.SSL_BOXES", "some")
    with pytest.raises(SystemExit, match="Non-existent key: INPUT.NOTHING"):
        run(tool, dataset, "INPUT.NOTHING", "1")
    with pytest.raises(SystemExit, match='No data set "nobody" is registered; there are: '):
        tool.main(["--dataset", "nobody", "--output", str(dataset)])
    (dataset / "0.png").unlink()
    with pytest.raises(SystemExit, match=r"No image at .*0\.png"):
        run(tool, dataset)


def test_orientations_are_counted(tool, dataset, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in (1, 4):
        Image.new("RGB", (80, 60)).save(dataset / f"{number}.png", exif=exif)
    run(tool, dataset)
    assert f"2 of the 5 images of {NAME} carry an EXIF orientation; boxes are" in caplog.text


def test_sheets_are_no_images_to_search(tool, dataset):
    tool.main(["--dataset", NAME, "--output", str(dataset), "--height", "60"])
    source = ImageFolder(dataset)
    assert [path.name for path in source.files] == [f"{number}.png" for number in range(5)]
    assert source.left_out["images drawn by these tools"] == 1


def test_16_bit_images_are_shown_as_bright_as_they_are(tool, dataset):
    for number in range(5):
        grey = np.full((60, 80), 90 * 257, np.uint16)
        Image.fromarray(grey).save(dataset / f"{number}.png")
    (sheet,) = run(tool, dataset)
    assert np.median(sheet) == 90
