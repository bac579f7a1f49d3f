"""Query-centric evaluation with a model that looks its answers up, and the plan behind it."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.evaluation import (
    PersonSearchEvaluator,
    Predictions,
    QueryCentricEvaluator,
    RetrievalProtocol,
    evaluate_predictions,
    evaluate_query_centric,
    flat_metrics,
)
from spnet_d2.evaluation.query_centric import SearchPlan
from tests.evaluation.corpus import QUERY, ground_truth, worked_example, write_dataset
from tests.oracles.evaluation import Person, Scene, galleries_of

NAME = "query_centric_test"
IMAGES = [1, 2, 3, 4, 5]


class LookUpModel(nn.Module):
    """Finds the worked example's detections for its query, and nothing for anybody else.

    A query's localisation embedding is its annotation id, (n, 1), so the model sees whom it is
    asked for; re-id embeddings are the example's.
    """

    def __init__(self, corpus, embeddings, gt_embeddings):
        super().__init__()
        self.corpus, self.embeddings, self.gt_embeddings = corpus, embeddings, gt_embeddings
        self.searched = []

    def forward(self, batched_inputs):
        assert not self.training
        return [self._search(x) if "queries" in x else self._embed(x) for x in batched_inputs]

    def _embed(self, x):
        ids = x["instances"].gt_annotation_ids
        reid = [torch.from_numpy(self.gt_embeddings[int(i)]) for i in ids]
        reid = torch.stack(reid) if reid else torch.zeros(0, 2)
        return {"query_instances": [], "gt_embeddings": {"reid": reid, "loc": ids[:, None] * 1.0}}

    def _search(self, x):
        assert "instances" not in x
        asked = x["queries"]["loc"][:, 0].long().tolist()
        assert x["queries"]["annotation_ids"].tolist() == asked
        assert len(x["queries"]["reid"]) == len(asked)
        self.searched += [(query, x["image_id"]) for query in asked]
        return {"query_instances": [self._found(x["image_id"], query) for query in asked]}

    def _found(self, image_id, query):
        found = self.corpus[image_id].detections if query == QUERY else []
        return Instances(
            (300, 500),
            pred_boxes=Boxes(torch.tensor([d.box for d in found]).reshape(-1, 4).float()),
            scores=torch.tensor([d.score for d in found]),
            reid_embeddings=torch.from_numpy(self.embeddings[[d.row for d in found]]),
        )


def loader_of(corpus, images, batch_size=1):
    """Batches as a test loader's."""
    inputs = []
    for image_id in images:
        people = corpus[image_id].people
        gt = Instances((300, 500))
        gt.gt_boxes = Boxes(torch.tensor([p.box for p in people]).reshape(-1, 4).float())
        gt.gt_annotation_ids = torch.tensor([p.annotation_id for p in people], dtype=torch.int64)
        inputs.append({"image_id": image_id, "height": 300, "width": 500, "instances": gt})
    return [inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size)]


@pytest.fixture
def dataset(tmp_path):
    """The worked example, with the query's frame and an empty image, and several protocols."""
    corpus, embeddings, gt_embeddings = worked_example(False)
    corpus[6] = Scene()
    write_dataset(tmp_path / "test.json", corpus, width=500, height=300, cam_id=-1)
    protocols = {
        "dict": (IMAGES, {QUERY: IMAGES}),
        "repeated": (IMAGES, {QUERY: [*IMAGES, 1]}),
        "list": ([0, *IMAGES], [QUERY]),
        "two": ([0, *IMAGES], {QUERY: [1, 4], 103: [0, 5, 5]}),
        "nobody": (IMAGES, {QUERY: []}),
    }
    for name, content in protocols.items():
        write_protocol(tmp_path / f"{name}.json", *content)
    paths = {name: tmp_path / f"{name}.json" for name in protocols}
    register_person_search(NAME, tmp_path / "test.json", tmp_path, paths)
    yield LookUpModel(corpus, embeddings, gt_embeddings)
    unregister(NAME)


RETRIEVAL = [f"{gt}{name}" for gt in ("", "gt_") for name in ("mAP", "top1", "top5", "top10")]
EXAMPLE_C = {"AP50": 0.125, "recall50": 0.25, "rAP50": 0.03125}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_worked_example_and_files(dataset, tmp_path, dtype):
    folder = tmp_path / "inference"
    evaluator = QueryCentricEvaluator(
        NAME, ("dict", "repeated", "list"), str(folder), embedding_dtype=dtype
    )
    loader = loader_of(dataset.corpus, range(7), batch_size=2)
    results = evaluate_query_centric(dataset, loader, evaluator)
    assert results["detection"] == pytest.approx({k: 100 * v for k, v in EXAMPLE_C.items()})
    tops = dict.fromkeys(("top5", "top10", "gt_top1", "gt_top5", "gt_top10"), 100)
    expected = {"mAP": 25, "top1": 0, "gt_mAP": 88.75, **tops}
    assert results["dict"] == results["list"] == pytest.approx(expected, abs=1e-2)
    assert results["repeated"]["mAP"] == pytest.approx(20)
    assert results["repeated"]["gt_mAP"] == pytest.approx(71)
    assert sorted(dataset.searched) == [(QUERY, image) for image in IMAGES]

    metrics = json.loads((folder / "metrics.json").read_text())
    cost = {k: metrics.pop(k) for k in ("num_query_image_pairs", "seconds_per_query_image_pair")}
    assert cost["num_query_image_pairs"] == 5
    assert cost["seconds_per_query_image_pair"] > 0
    saved = Predictions.load(folder / "predictions.npz")
    assert saved.is_query_centric
    assert saved.embeddings.dtype == saved.gt_embeddings.dtype == dtype
    # The detection of image 2 is below the floor.
    assert saved.image_ids.tolist() == [1, 1, 3, 4, 5]
    assert saved.query_annotation_ids.tolist() == [QUERY] * 5
    assert saved.gt_annotation_ids.tolist() == [100, 101, 102, 103, 104, 105]
    again = evaluate_predictions(evaluator.truth, evaluator.protocols, saved)
    assert flat_metrics(again) == metrics


def one_of_two(rank, model, images, file, folder, results):
    """A process of an evaluation by two, each with its own images."""
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    evaluator = QueryCentricEvaluator(NAME, ("two",), str(folder))
    figures = evaluate_query_centric(model, loader_of(model.corpus, images), evaluator)
    results.put((rank, figures, model.searched))


def test_processes_share_queries_and_are_joined(dataset, tmp_path):
    """Image 4 comes to both, as samplers do that fill up, but counts once."""
    # Forked, so that the data set is registered.
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    folders = tmp_path / "alone", tmp_path / "two"
    workers = [
        context.Process(
            target=one_of_two,
            args=(rank, dataset, images, tmp_path / "rendezvous", folders[1], queue),
        )
        for rank, images in enumerate([[4, 3, 0], [1, 2, 4, 5, 6]])
    ]
    for worker in workers:
        worker.start()
    (_, figures, first), (_, nothing, second) = sorted(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert first == [(QUERY, 4), (103, 0)]
    assert second == [(QUERY, 1), (QUERY, 4), (103, 5)]
    assert nothing == {}

    evaluator = QueryCentricEvaluator(NAME, ("two",), str(folders[0]))
    alone = evaluate_query_centric(dataset, loader_of(dataset.corpus, range(7)), evaluator)
    assert figures == alone
    assert dataset.searched == [(103, 0), (QUERY, 1), (QUERY, 4), (103, 5)]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert [m["num_query_image_pairs"] for m in metrics] == [4, 4]
    one, two = (Predictions.load(folder / "predictions.npz") for folder in folders)
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, getattr(two, name))


def test_nobody_searches(dataset):
    evaluator = QueryCentricEvaluator(NAME, ("nobody",))
    results = evaluate_query_centric(dataset, loader_of(dataset.corpus, range(7)), evaluator)
    assert results["nobody"] == dict.fromkeys(RETRIEVAL, 0)
    assert dataset.searched == []


def test_errors(dataset, tmp_path):
    corpus = dataset.corpus
    evaluator = QueryCentricEvaluator(NAME, ("dict",))
    with pytest.raises(RuntimeError, match="1 of 1 queries were not embedded, first: 100"):
        evaluate_query_centric(dataset, loader_of(corpus, IMAGES), evaluator)
    with pytest.raises(RuntimeError, match="for 5 images, but 1 were not processed, first: 5"):
        evaluate_query_centric(dataset, loader_of(corpus, range(5)), evaluator)
    found = dataset._found
    dataset._search = lambda x: {"query_instances": [found(1, QUERY), found(1, QUERY)]}
    with pytest.raises(ValueError, match="Image 1: .* gave 2 for 1 queries"):
        evaluate_query_centric(dataset, loader_of(corpus, range(7)), evaluator)
    dataset._embed = lambda x: {"gt_embeddings": {"reid": torch.ones(1, 2), "loc": torch.ones(2)}}
    with pytest.raises(ValueError, match="Image 0: .* gave 1 re-id and 2 loc.* for 1 boxes"):
        evaluate_query_centric(dataset, loader_of(corpus, range(7)), evaluator)

    with pytest.raises(ValueError, match="searches query by query.*evaluate_query_centric"):
        PersonSearchEvaluator(NAME).process([{"image_id": 1}], [{"query_instances": []}])
    write_person_search_json(
        tmp_path / "empty.json", [{"id": 0, "file_name": "0.png", "width": 9, "height": 9}], []
    )
    register_person_search("query_centric_empty", tmp_path / "empty.json", tmp_path)
    register_person_search("query_centric_plain", tmp_path / "test.json", tmp_path)
    try:
        with pytest.raises(ValueError, match=r"no retrieval protocol.*TEST.PROTOCOLS.*all"):
            QueryCentricEvaluator("query_centric_plain")
        QueryCentricEvaluator("query_centric_plain", ("all",))
        with pytest.raises(ValueError, match="has no boxes, so nobody to search for"):
            QueryCentricEvaluator("query_centric_empty", ("all",))
    finally:
        unregister("query_centric_plain")
        unregister("query_centric_empty")


def random_corpus(rng, num_images):
    corpus, annotation = {}, 0
    for image in range(num_images):
        people = []
        for _ in range(rng.integers(0, 4)):
            people.append(Person(annotation, int(rng.integers(5)), (0, 0, 10, 20)))
            annotation += 1
        corpus[10 * image] = Scene(people)
    return corpus, annotation


@pytest.mark.parametrize("seed", range(5))
def test_plan_is_the_union_of_the_galleries(seed):
    rng = np.random.default_rng(seed)
    corpus, count = random_corpus(rng, 12)
    truth = ground_truth(corpus)
    ids, everyone = list(corpus), np.arange(count)

    def some(of, most):
        return [int(x) for x in rng.choice(of, rng.integers(1, most + 1))]

    contents = [
        (ids, {q: some(ids, 9) for q in set(some(everyone, 6))}),
        (some(ids, 5), sorted(set(some(everyone, 4)))),
        (some(ids, 3), some(everyone, 1)),
    ]
    protocols = [RetrievalProtocol.from_ids(str(i), truth, *c) for i, c in enumerate(contents)]
    if seed == 0:
        contents.append((ids, everyone.tolist()))
        protocols.append(RetrievalProtocol.all_boxes(truth))
    expected = {
        (image, query)
        for content in contents
        for query, gallery in galleries_of(corpus, *content).items()
        for image in gallery
    }
    plan = SearchPlan(truth, protocols)
    found = [
        (int(truth.image_ids[i]), int(truth.annotation_ids[q]))
        for i in range(truth.num_images)
        for q in plan.queries(i)
    ]
    assert found == sorted(expected)
    assert truth.image_ids[plan.searched_images()].tolist() == sorted({i for i, _ in expected})
