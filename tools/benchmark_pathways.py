#!/usr/bin/env python3
"""Time a query-centric training step against an object-centric one at equal anchors.

    python tools/benchmark_pathways.py

Two models with the same random weights train on the same synthetic pictures in turn, so that
whatever else the machine does meets both: object-centrically with 8 images x 256 anchors,
query-centrically with 32 pairs x 64 anchors, both with momentum queue and twin, as in the paper's
pre-training. Printed are medians, forward and backward pass apart, and their ratio (the paper's
Table 4: 1.22). Then inference: an image by itself, and searched by queries.

The defaults take about a minute on two cores. The paper's size: --trunk convnext_tiny.fb_in1k
--size 512 --people 4. Settings may follow at the end as KEY VALUE pairs.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tabulate import tabulate
from torch import nn, optim

import spnet_d2.modeling  # noqa: F401  (registers the model)
from spnet_d2.config_reader import read_config
from spnet_d2.data.atomic_io import atomic_path
from spnet_d2.engine.optimizer import build_optimizer

SECONDS = ("seconds", "CPU seconds")
PARTS = ("forward", "backward", "optimiser", "step")
IMAGES, ANCHORS_PER_IMAGE = 8, 256
PAIRS, ANCHORS_PER_PAIR = 32, 64


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", default="convnext_atto.d2_in1k", help="timm model (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of the crops (%(default)s)")
    parser.add_argument("--people", type=int, default=4, help="boxes per image (%(default)s)")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each (%(default)s)")
    parser.add_argument("--queries", type=int, default=16, help="of an image (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="mixed precision (GPU)")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    args = parser.parse_args(argv)
    for name in ("size", "people", "steps", "queries"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be 1 or more, found {getattr(args, name)}")
    if len(args.opts) % 2:
        parser.error(f"settings are KEY VALUE pairs, found {len(args.opts)} words: {args.opts}")
    return args


def make_cfg(args: argparse.Namespace, pathway: str) -> CfgNode:
    """The paper's pre-training on one pathway, at the size asked for."""
    settings = {
        "MODEL.DEVICE": args.device,
        "MODEL.SPNET.PATHWAY": pathway,
        "MODEL.SPNET.ANCHORS_PER_IMAGE": ANCHORS_PER_IMAGE,
        "MODEL.SPNET.QC.ANCHORS_PER_PAIR": ANCHORS_PER_PAIR,
        "MODEL.SPNET.QC.PAIRS_PER_BATCH": PAIRS,
        "MODEL.SPNET.BACKBONE.NAME": args.trunk,
        "MODEL.SPNET.BACKBONE.PRETRAINED": "",
        "MODEL.SPNET.REID.LOSS": "momentum_queue",
        "MODEL.SPNET.REID.SCALE": 10.0,
        "MODEL.SPNET.REID.QUEUE_SIZE": 65536,
        "MODEL.SPNET.MOMENTUM_TWIN.ENABLED": True,
        "SOLVER.AMP.ENABLED": args.amp,
    }
    return read_config(opts=[*(x for pair in settings.items() for x in pair), *args.opts])


def synthetic_batch(args: argparse.Namespace, rng: np.random.Generator) -> list[dict]:
    """Two views each of noise with people in it, as pre-training's sampler gives them."""
    size, batch = args.size, []
    for i in range(IMAGES):
        height = rng.uniform(0.25, 0.8, args.people) * size
        width = height * rng.uniform(0.35, 0.6, args.people)
        x, y = rng.uniform(0, size - width), rng.uniform(0, size - height)
        ids = torch.arange(args.people) + i // 2 * args.people
        boxes = torch.from_numpy(np.stack([x, y, x + width, y + height], axis=1)).float()
        picture = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
        instances = Instances(
            (size, size),
            gt_boxes=Boxes(boxes),
            gt_classes=torch.zeros_like(ids),
            gt_person_ids=ids,
            gt_identities=torch.full_like(ids, -1),
        )
        batch.append({"image": torch.from_numpy(picture), "instances": instances})
    return batch


class Stopwatch:
    """
    Seconds between calls, a GPU's queued work included.

    On the CPU they are seconds of this process alone, all threads together, which other processes
    change little.
    """

    def __init__(self, device: str):
        self._cuda = device.startswith("cuda")
        self._last = self._now()

    def _now(self) -> float:
        if not self._cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def __call__(self) -> float:
        last, self._last = self._last, self._now()
        return self._last - last


def train_step(
    model: nn.Module, optimizer: optim.Optimizer, batch: list[dict], args: argparse.Namespace
) -> dict[str, float]:
    """One step's seconds by part."""
    optimizer.zero_grad()
    lap = Stopwatch(args.device)
    with torch.autocast(args.device.split(":")[0], enabled=args.amp):
        loss = sum(model(batch).values())
    seconds = {"forward": lap()}
    loss.backward()
    seconds["backward"] = lap()
    optimizer.step()
    seconds["optimiser"] = lap()
    return {**seconds, "step": sum(seconds.values())}


def time_training(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """
    Medians per pathway of the seconds of each part, and of the boxes that trained re-id, which
    are most of the RoI heads' work.
    """
    rng = np.random.default_rng(0)
    runs, boxes = {}, {}
    for pathway in ("OC", "QC"):
        torch.manual_seed(0)
        model = build_model(make_cfg(args, pathway)).train()
        counts = boxes[pathway] = []
        model.roi_heads.reid_embedder.register_forward_pre_hook(
            lambda _, inputs, counts=counts: counts.append(len(inputs[0]))
        )
        runs[pathway] = (model, build_optimizer(make_cfg(args, pathway), model))
    taken = {pathway: [] for pathway in runs}
    for step in range(args.steps + 1):
        batch = synthetic_batch(args, rng)
        for pathway, (model, optimizer) in runs.items():
            boxes[pathway].clear()
            seconds = train_step(model, optimizer, batch, args)
            # The first one allocates, and chooses kernels.
            if step:
                taken[pathway].append({**seconds, "re-id boxes": sum(boxes[pathway])})
    return {
        pathway: {name: statistics.median(s[name] for s in steps) for name in steps[0]}
        for pathway, steps in taken.items()
    }


@torch.no_grad()
def time_inference(args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of an image by itself, with queries, and of a (query, image) pair."""
    cfg = make_cfg(args, "QC")
    cfg.MODEL.SPNET.MOMENTUM_TWIN.ENABLED = False
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    rng = np.random.default_rng(0)
    alone, searched = [], []
    for step in range(args.steps + 1):
        x, *others = synthetic_batch(args, rng)
        del x["instances"]
        embedded = [output["gt_embeddings"]["loc"] for output in model(others)]
        loc = torch.cat(embedded).repeat(-(-args.queries // (len(others) * args.people)), 1)
        loc = loc[: args.queries]
        lap = Stopwatch(args.device)
        model([{**x, "queries": {"reid": loc[:0], "loc": loc[:0]}}])
        without = lap()
        model([{**x, "queries": {"reid": loc, "loc": loc}}])
        if step:
            alone.append(without)
            searched.append(lap())
    image, queries = statistics.median(alone), statistics.median(searched)
    return {
        "image": image,
        "image_with_queries": queries,
        "pair": (queries - image) / args.queries,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    training = time_training(args)
    rows = [
        [name, *(f"{training[p][name]:.3f}" for p in ("OC", "QC")), f"{ratio:.3f}"]
        for name in PARTS
        if (ratio := training["QC"][name] / training["OC"][name])
    ]
    rows.append(["re-id boxes", *(f"{training[p]['re-id boxes']:.0f}" for p in ("OC", "QC")), ""])
    anchors = f"{IMAGES} x {ANCHORS_PER_IMAGE}", f"{PAIRS} x {ANCHORS_PER_PAIR}"
    print(f"{args.trunk}, {args.size} x {args.size}, {args.people} people per image, {args.device}")
    headers = [SECONDS[args.device == "cpu"], f"OC {anchors[0]}", f"QC {anchors[1]}", "QC / OC"]
    print(tabulate(rows, headers, disable_numparse=True, stralign="right"))

    inference = time_inference(args)
    print(
        f"\nInference: {inference['image']:.3f} s per image, {inference['image_with_queries']:.3f} "
        f"with {args.queries} queries: {1e3 * inference['pair']:.2f} ms per (query, image) pair"
    )
    if args.output:
        ratio = training["QC"]["step"] / training["OC"]["step"]
        result = {"ratio": ratio, "training": training, "inference": inference}
        with atomic_path(args.output) as part:
            part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
