"""Read the MATLAB files of CUHK-SYSU.

Records are read by position, as every consumer of these files does. Boxes are x, y, w, h as stored;
MATLAB's counting from 1 is not undone, because no published result does.
"""

from dataclasses import dataclass, field
from pathlib import Path

from spnet_d2.data.formats.corpus import Corpus, elements, integer_box, some, text, texts

ORIGIN = (
    "https://github.com/ShuangLI59/person_search (the authors send a link for academic use); "
    "unpack so that annotation/ and Image/ lie in this folder"
)
IMAGE_FOLDER = "Image/SSM"
# Protocol name: file below annotation/test, variable.
PROTOCOLS = {
    **{
        f"G{size}": (f"train_test/TestG{size}.mat", f"TestG{size}")
        for size in (50, 100, 500, 1000, 2000, 4000)
    },
    "GOcclusion": ("subset/Occlusion.mat", "Occlusion1"),
    "GResolution": ("subset/Resolution.mat", "Test_Size"),
}
Box = tuple[int, int, int, int]


@dataclass
class SearchQuery:
    """One entry of a protocol: the query's image and box, and its gallery in file order."""

    image: str
    box: Box
    gallery: list[str]
    appearances: list[tuple[str, Box]] = field(default_factory=list)


def open_corpus(dataset_dir: str | Path) -> Corpus:
    """The corpus at ``dataset_dir``, for reading."""
    return Corpus("CUHK-SYSU", Path(dataset_dir), ORIGIN)


def read_boxes(corpus: Corpus) -> dict[str, list[Box]]:
    """Image name to its boxes with a positive width and height, in file order."""
    relative = "annotation/Images.mat"
    records = corpus.load_mat(relative, ["Img"])
    boxes = {}
    with corpus.reading(corpus.root / relative, "Img(i) with imname, nAppear, box(j).idlocate"):
        for record in elements(records):
            name, _, marked = record
            found = [integer_box(mark[0]) for mark in elements(marked)]
            boxes[text(name)] = [box for box in found if box and box[2] > 0 and box[3] > 0]
        if len(boxes) != records.size:
            raise ValueError("an image name occurs twice")
    return boxes


def read_test_names(corpus: Corpus) -> set[str]:
    """Names of the test images; all other images of the corpus are for training."""
    relative = "annotation/pool.mat"
    cells = corpus.load_mat(relative, ["pool"])
    with corpus.reading(corpus.root / relative, "a cell array of image names"):
        return some({text(cell) for cell in elements(cells)})


def read_train_people(corpus: Corpus) -> list[list[tuple[str, Box]]]:
    """The appearances (image name, box) of each training identity."""
    relative = "annotation/test/train_test/Train.mat"
    cells = corpus.load_mat(relative, ["Train"])
    people = []
    with corpus.reading(corpus.root / relative, "cells of idname, nAppear, scene(j).idlocate"):
        for cell in elements(cells):
            scenes = [(text(name), integer_box(box)) for name, box, _ in elements(cell[0, 0][2])]
            people.append([(name, box) for name, box in scenes if box is not None])
        return some(people)


def read_protocol(corpus: Corpus, name: str) -> list[SearchQuery]:
    """The queries of protocol ``name``, one of :data:`PROTOCOLS`, in file order."""
    file, variable = PROTOCOLS[name]
    relative = f"annotation/test/{file}"
    records = corpus.load_mat(relative, [variable])
    expected = f"{variable}(i) with Query(1).imname, .idlocate and Gallery(j).imname, .idlocate"
    queries: list[SearchQuery] = []
    names: dict = {}
    with corpus.reading(corpus.root / relative, expected):
        for number, record in enumerate(elements(records), start=1):
            query = record["Query"][0, 0]
            try:
                box = integer_box(query[1])
            except ValueError as error:
                raise ValueError(f"{variable}({number}), its query: {error}") from error
            if box is None:
                raise ValueError(f"{variable}({number}), its query, has no box")
            gallery = record["Gallery"].reshape(-1)
            image_field, box_field, _ = gallery.dtype.names
            # The protocols list 22 million images by name: one string object for each is enough.
            images = [names.setdefault(name, name) for name in texts(gallery[image_field])]
            search = SearchQuery(text(query[0]), box, images)
            for image, entry in zip(images, gallery[box_field]):
                # Positives come first; an empty box ends them, whatever may follow.
                try:
                    box = integer_box(entry)
                except ValueError as error:
                    place = f"{variable}({number}), {image} of its gallery"
                    raise ValueError(f"{place}: {error}") from error
                if box is None:
                    break
                search.appearances.append((image, box))
            queries.append(search)
        return some(queries)
