"""Evaluation with test pathway QC through the trainer, against one search after the other."""

import json
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.loaders import build_test_loader
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.engine import Trainer, setup
from spnet_d2.evaluation import Predictions, evaluate_predictions, flat_metrics
from spnet_d2.evaluation.report import fractions
from spnet_d2.modeling import query_results
from tests.engine.conftest import HEIGHT, NUM_IMAGES, NUM_KNOWN, WIDTH
from tests.evaluation.corpus import xywh
from tests.oracles import evaluation as oracle

NAME = "tiny_search"
PROTOCOLS = {
    "list": (range(NUM_IMAGES), [0, 2, 4]),
    "repeated": (range(NUM_IMAGES), {0: [3, 6, 3, 1], 3: [5, 5], 8: [1, 7, 2]}),
    # The corpus alternates between two cameras.
    "other_camera": (range(NUM_IMAGES), {0: [1, 3, 5, 7], 2: [0, 2, 4, 6]}),
    "own_image": ([0, 3, 6], {0: [0, 3, 6]}),
}


def people_of(image):
    """(annotation id, person, box xyxy, IoU threshold): about where anchors are, so that random
    weights hit some."""
    x, y = 12 + 12 * (image % 3), 4 + 6 * (image % 4)
    return [
        (2 * image, image % NUM_KNOWN, (x, 12, x + 34, 80), 0.5),
        (2 * image + 1, 100 + image, (76, y, 110, y + 68), 1 / 3),
    ]


@pytest.fixture(scope="module")
def searched_corpus(tiny_corpus):
    """The tiny corpus' images with larger people, and every kind of protocol."""
    images = [
        {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH, "cam_id": i % 2}
        for i in range(NUM_IMAGES)
    ]
    annotations = [
        {
            "id": annotation,
            "image_id": i,
            "bbox": xywh(box),
            "area": 1,
            "category_id": 1,
            "iscrowd": 0,
            "person_id": person,
            "is_known": person < NUM_KNOWN,
            "iou_thresh": iou_thresh,
        }
        for i in range(NUM_IMAGES)
        for annotation, person, box, iou_thresh in people_of(i)
    ]
    write_person_search_json(tiny_corpus / "searched.json", images, annotations)
    for name, content in PROTOCOLS.items():
        write_protocol(tiny_corpus / f"{name}.json", *content)
    paths = {name: tiny_corpus / f"{name}.json" for name in PROTOCOLS}
    register_person_search(NAME, tiny_corpus / "searched.json", tiny_corpus, paths)
    yield
    unregister(NAME)


def make_cfg(tiny_opts, output, *more):
    settings = ["MODEL.SPNET.TEST_PATHWAY", "QC", "DATASETS.TEST", (NAME,)]
    settings += ["TEST.PROTOCOLS", tuple(PROTOCOLS)]
    opts = [*tiny_opts, *settings, *more, "OUTPUT_DIR", str(output)]
    return setup(Namespace(config_file="", opts=opts))


def keep(model, query_topk):
    """Of every query and image, so many anchors."""
    generator = model.proposal_generator
    generator.selection = replace(generator.selection, query_topk=query_topk)


def make_model(cfg, query_topk=300):
    """A model that gives different people different detections over the floor."""
    torch.manual_seed(1)
    model = Trainer.build_model(cfg).eval()
    with torch.no_grad():
        model.proposal_generator.anchor_embedder.conv.bias.zero_()
        model.proposal_generator.anchor_embedder.conv.weight.normal_(std=0.05)
        # As if people had been seen: embeddings of one of them differ from the others'.
        for linear, norm in model.roi_heads.reid_embedder.projectors:
            linear.weight.normal_(std=0.3)
            norm.running_var.fill_(4.0)
    keep(model, query_topk)
    return model


@torch.no_grad()
def search_one_by_one(cfg, model):
    """The corpus, and its embeddings, by a model run for every annotation and image alone."""
    inputs = {x["image_id"]: x for (x,) in build_test_loader(cfg, NAME)}
    gt = {}
    corpus = {}
    for image, x in inputs.items():
        (output,) = model([x])
        for i, annotation in enumerate(x["instances"].gt_annotation_ids.tolist()):
            gt[annotation] = {k: v[i : i + 1] for k, v in output["gt_embeddings"].items()}
        people = [oracle.Person(a, p, box, iou) for a, p, box, iou in people_of(image)]
        corpus[image] = oracle.Scene(people)
    embeddings = []
    asked = {q for _, queries in PROTOCOLS.values() for q in queries}
    for image, x in inputs.items():
        for annotation in sorted(asked):
            query = gt[annotation]
            alone = {k: v for k, v in x.items() if k != "instances"} | {"queries": query}
            (found,) = model([alone])[0]["query_instances"]
            for box, score, embedding in zip(
                found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.reid_embeddings
            ):
                detection = oracle.Detection(tuple(box), score, len(embeddings), annotation)
                corpus[image].detections.append(detection)
                embeddings.append(embedding)
    return corpus, torch.stack(embeddings), {a: v["reid"][0] for a, v in gt.items()}


ARCHITECTURES = {
    "shared": ("MODEL.SPNET.NUM_CASCADES", 0),
    "cascade": ("MODEL.SPNET.PATHWAY", "QC"),
    "separate": (
        "MODEL.SPNET.NUM_CASCADES",
        0,
        "MODEL.SPNET.SEPARATE_HEADS",
        True,
        "MODEL.SPNET.REID_DIM",
        24,
    ),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_single_searches(searched_corpus, tiny_opts, tmp_path, architecture):
    cfg = make_cfg(tiny_opts, tmp_path, *ARCHITECTURES[architecture])
    model = make_model(cfg, 100 if architecture == "cascade" else 300)
    model.queries_per_chunk = 2
    corpus, embeddings, gt = search_one_by_one(cfg, model)
    results = fractions(Trainer.test(cfg, model))

    def similarity(query, row):
        return torch.cosine_similarity(gt[query], embeddings[row], dim=0).item()

    for name, content in PROTOCOLS.items():
        galleries = oracle.galleries_of(corpus, *content)
        expected = oracle.retrieval(corpus, galleries, similarity)
        assert results[name]["mAP"] == pytest.approx(np.mean([ap for ap, _ in expected]), abs=1e-4)
        assert results[name]["top1"] == np.mean([first == 0 for _, first in expected])
        if name == "list":
            recall, ap, rap = oracle.detection_of_pairs(corpus, galleries)
            wanted = {"AP50": ap, "recall50": recall, "rAP50": rap}
            assert results["detection"] == pytest.approx(wanted, abs=1e-4)
    assert sum(results[name]["mAP"] for name in PROTOCOLS) > 0
    assert results["detection"]["AP50"] > 0

    folder = tmp_path / "inference" / NAME
    metrics = json.loads((folder / "metrics.json").read_text())
    galleries = [oracle.galleries_of(corpus, *c) for c in PROTOCOLS.values()]
    pairs = {(q, i) for g in galleries for q, images in g.items() for i in images}
    assert metrics["num_query_image_pairs"] == len(pairs)
    saved = Predictions.load(folder / "predictions.npz")
    found = set(zip(saved.query_annotation_ids.tolist(), saved.image_ids.tolist()))
    assert found <= pairs
    evaluator = Trainer.build_evaluator(cfg, NAME)
    again = flat_metrics(evaluate_predictions(evaluator.truth, evaluator.protocols, saved))
    assert again.items() <= metrics.items()


def test_while_training(searched_corpus, tiny_opts, tmp_path):
    """A model trains object-centrically and is evaluated query-centrically in between."""
    more = ["TEST.EVAL_PERIOD", 3, "SOLVER.EPOCHS", 1, "TEST.EMBEDDING_DTYPE", "float16"]
    cfg = make_cfg(tiny_opts, tmp_path, *more, "MODEL.SPNET.NUM_CASCADES", 0)
    trainer = Trainer(cfg)
    keep(trainer.model, 12)
    results = trainer.train()
    assert set(results) == {"detection", *PROTOCOLS}
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert sum("list/mAP" in row for row in rows) == 2
    assert trainer.model.training
    saved = Predictions.load(tmp_path / "inference" / NAME / "predictions.npz")
    assert saved.is_query_centric
    assert saved.gt_embeddings.dtype == np.float16


def test_no_instances_are_made_for_single_queries(
    searched_corpus, tiny_opts, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("Detections were cut into one Instances per query.")

    monkeypatch.setattr(query_results, "split_by_query", refuse)
    cfg = make_cfg(tiny_opts, tmp_path, "MODEL.SPNET.NUM_CASCADES", 0)
    results = Trainer.test(cfg, make_model(cfg))
    assert results["detection"]["AP50"] > 0


def test_pathway_without_a_test_set(searched_corpus, tiny_opts, tmp_path):
    cfg = make_cfg(tiny_opts, tmp_path, "DATASETS.TEST", "()")
    assert Trainer.test(cfg, Trainer.build_model(cfg).eval()) == {}
