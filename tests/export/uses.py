"""Everything that exported models and two-stage predictors are used for, where PyTorch is missing.

    python tests/export/uses.py WORK --exported DIR
    python tests/export/uses.py WORK --detector YAML --reid YAML

It needs spnet_d2 and what docs/export.md lists, and makes its own footage. .ci/check_exported runs
it in an environment without PyTorch, test_without_pytorch.py with the packages hidden.
"""

import importlib.util
import json
import sys
import threading
import urllib.request
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np

# Width and height.
SIZE = (130, 90)
BOXES = [(5, 8, 30, 40), (60, 20, 40, 60)]


def run(tool: str, *argv) -> None:
    """A console script, in this process."""
    status = import_module(f"spnet_d2.cli.{tool}").main([str(word) for word in argv])
    assert status == 0, f"{tool} {argv}: exit status {status}"


def make_footage(work: Path) -> None:
    """Four images of noise, and two people in each."""
    (work / "frames").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        pixels = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        cv2.imwrite(str(work / "frames" / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]})
        for person, (x, y, w, h) in enumerate(BOXES):
            annotations.append(
                {
                    "id": 2 * i + person,
                    "image_id": i,
                    "bbox": [x, y, w, h],
                    "person_id": person + 1,
                    "is_known": True,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": w * h,
                    "iou_thresh": 0.5,
                }
            )
    content = {"images": images, "annotations": annotations}
    (work / "people.json").write_text(json.dumps(content))


def search(model: Sequence[str], work: Path) -> None:
    query = ["--query", work / "frames/0.png", "--box", "5,8,30,40"]
    out = work / "search"
    run("search", *query, "--gallery", work / "frames", "--output", out, *model)
    matches = json.loads((out / "matches.json").read_text())["matches"]
    assert matches and (out / "search.png").is_file()


def index_and_search_a_gallery(model: Sequence[str], work: Path) -> None:
    gallery = ["--gallery", work / "gallery"]
    source = f"street={work / 'frames'}"
    run("gallery", "index", *gallery, "--source", source, *model)
    query = ["--query", work / "frames/0.png", "--box", "5,8,30,40"]
    run("gallery", "search", *gallery, *query, "--output", work / "found")
    assert json.loads((work / "found/found.json").read_text())["hits"]
    run("gallery", "info", *gallery)


def serve_the_page(work: Path) -> None:
    """A search of the page by a box of an indexed scene, which the model embeds."""
    import uvicorn

    from spnet_d2.ingestion import GalleryHome
    from spnet_d2.web.app import create_app
    from spnet_d2.web.server import ServeOptions, _listen
    from spnet_d2.web.service import Service

    listener = _listen(ServeOptions(port=0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = create_app(Service(GalleryHome(work / "gallery"), can_add=False))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with urllib.request.urlopen(f"{address}/", timeout=30) as page:
            assert b"<title>" in page.read()
        box = {"source": "street", "frame": 1, "box": [5, 8, 35, 48]}
        request = urllib.request.Request(
            f"{address}/api/search",
            json.dumps({"positives": [box]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["hits"]
    finally:
        server.should_exit = True
        thread.join()


def predict_and_evaluate(model: Sequence[str], work: Path) -> None:
    annotations = ["--annotations", work / "people.json"]
    output = work / "predictions.npz"
    images = ["--images", work / "frames"]
    run("predict", *annotations, *images, "--output", output, *model)
    given = ["--protocol", "all", "--predictions", output, "--output", work / "scores"]
    run("evaluate", *annotations, *given)
    assert "mAP" in json.loads((work / "scores/metrics.json").read_text())


def label_footage(model: Sequence[str], work: Path) -> None:
    labels = work / "labels"
    run("autolabel", work / "frames", "--output", labels, *model, "--tracklets")
    assert json.loads((labels / "annotations.json").read_text())["annotations"]


def main(work: Path, *model: str) -> None:
    make_footage(work)
    search(model, work)
    index_and_search_a_gallery(model, work)
    if importlib.util.find_spec("fastapi"):
        serve_the_page(work)
    else:
        print("no fastapi: the page was not tried")
    predict_and_evaluate(model, work)
    label_footage(model, work)
    brought = sorted({"torch", "torchvision", "detectron2", "fvcore", "timm"} & set(sys.modules))
    assert not brought, f"imported on the way: {brought}"
    print("everything ran without PyTorch")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
