#!/usr/bin/env python3
"""Person search from nothing on real footage: prepare, pre-train, fine-tune, evaluate, search.

    make demo        or        python tools/demo.py [--output DIR] [--seed N] [KEY VALUE ...]

Prepares PETS09 (an apt-get download, or --video), pre-trains a small SPNet query-centrically on
boxes without identities, fine-tunes it object-centrically, evaluates it and a colour histogram, and
looks for a person who left the image and came back. A short fine-tuning with and without the
pre-training shows what that adds. KEY VALUE settings hold for all trainings.
Written to --output: results.json, search.png, matches.json, config.yaml, model_final.pth, logs; and
folders of the pre-training and of the comparison. Running it again replaces them.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import torch

from spnet_d2.data.catalog import register_builtin_datasets
from spnet_d2.data.own_images import write_own_image
from spnet_d2.demo import example as demo_example
from spnet_d2.demo import lite0_weights
from spnet_d2.demo.hsv_baseline import evaluate_hsv_baseline
from spnet_d2.demo.results import (
    PROTOCOLS,
    Clock,
    beats_baseline,
    make_results,
    peak_rss_gb,
    summary,
)
from spnet_d2.demo.starts import STARTS, register_sample, start_metrics
from spnet_d2.engine import Trainer, setup
from spnet_d2.errors import errors_in_one_line
from spnet_d2.evaluation import ALL_PROTOCOL
from spnet_d2.evaluation.report import fractions
from spnet_d2.search import (
    Gallery,
    ImageFolder,
    PersonSearchPredictor,
    draw_search,
    iterate_frames,
    read_image_bgr,
    search,
)
from spnet_d2.search.query import box_to_json
from spnet_d2.utils.atomic_io import write_json
from spnet_d2.utils.log_handlers import remove_log_handlers

logger = logging.getLogger("spnet_d2.demo")

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "projects_configs" / "pets09"
TEST_SET = "pets09_test"
# Starts are compared after so many iterations of fine-tuning, with a schedule of their own, and on
# one of so many test frames.
COMPARE_ITERS = 50
COMPARE_STEP = 4
COMPARE_SET = "pets09_test_sample"
# What a run writes; nothing else is removed from the output folder.
OWN_FILES = (
    "model_*.pth", "model_*.pth.part", "last_checkpoint", "config.yaml", "metrics.json", "log.txt*",
    "events.out.tfevents.*", "results.json", "matches.json", "search.png", "inference",
    "pretrain", "compare",
)  # fmt: skip


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = Path(os.environ.get("DETECTRON2_DATASETS", ROOT / "datasets"))
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "demo")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--config-file", type=Path, default=CONFIGS / "demo.yaml")
    parser.add_argument(
        "--pretrain-config-file",
        type=Path,
        default=CONFIGS / "demo_pretrain.yaml",
        help="default: %(default)s",
    )
    parser.add_argument("--datasets", type=Path, default=data, help="where pets09/ is or goes")
    parser.add_argument("--video", type=Path, help="vtest.avi, instead of fetching it")
    parser.add_argument(
        "--skip-train", action="store_true", help="use model_final.pth of the last run"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    args = parser.parse_args(argv)
    if len(args.opts) % 2:
        parser.error(f"settings are KEY VALUE pairs, found {len(args.opts)} words: {args.opts}")
    for file in (args.config_file, args.pretrain_config_file):
        if not file.is_file():
            parser.error(f"no config file at {file.absolute()}")
    if args.skip_train and not (args.output / "model_final.pth").is_file():
        parser.error(f"--skip-train, but {args.output} holds no model_final.pth")
    return args


def prepare(args: argparse.Namespace) -> list[str]:
    """Make the data set and the ImageNet weights; returns settings that name the latter."""
    command = [sys.executable, str(ROOT / "datasets" / "prepare_pets09.py"), "--weak"]
    command += ["--output", str(args.datasets / "pets09")]
    command += ["--video", str(args.video)] if args.video else []
    if subprocess.run(command).returncode:
        raise SystemExit("demo: PETS09 could not be prepared; the message above says why.")
    register_builtin_datasets(args.datasets)
    key = "MODEL.SPNET.BACKBONE.PRETRAINED"
    if args.skip_train or key in args.opts[0::2]:
        return []
    weights = args.output.parent / "weights" / lite0_weights.DEFAULT_PATH.name
    return [key, lite0_weights.write_lite0_weights(weights)]


def clear(output: Path) -> None:
    """Remove what an earlier run left, so that nothing of it mixes with this one."""
    for path in (path for pattern in OWN_FILES for path in output.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_config(args: argparse.Namespace, file: Path, output: Path, opts: list[str]):
    """The config of one training; the command line's settings win."""
    # Lines would come several times, and end up in the logs of the trainings before.
    remove_log_handlers()
    job = argparse.Namespace(
        config_file=str(file),
        opts=[*opts, "OUTPUT_DIR", str(output), "SEED", str(args.seed), *args.opts],
        num_gpus=min(1, torch.cuda.device_count()),
        eval_only=args.skip_train,
    )
    return setup(job)


def run(trainer_class: type[Trainer], cfg):
    """Train from ``MODEL.WEIGHTS``; returns the evaluator's results, if there is a test set."""
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=False)
    return trainer.train()


def pretrain(args: argparse.Namespace, opts: list[str]) -> Path:
    """Pre-train query-centrically on boxes without identities; returns the weights' path."""
    logger.info("Pre-training query-centrically on boxes without identities:")
    output = args.output / "pretrain"
    run(Trainer, make_config(args, args.pretrain_config_file, output, opts))
    return output / "model_final.pth"


def compare_starts(args: argparse.Namespace, opts: list[str], weights: Path) -> dict[str, dict]:
    """Figures after a short fine-tuning from ImageNet weights, and from ``weights``."""
    folder = args.output / "compare"
    register_sample(TEST_SET, COMPARE_SET, COMPARE_STEP, folder / "sample.json")
    short = ["SOLVER.MAX_ITER", str(COMPARE_ITERS)]
    short += ["DATASETS.TEST", f"('{COMPARE_SET}',)", "TEST.PROTOCOLS", f"('{ALL_PROTOCOL}',)"]
    found = {}
    for name, start in zip(STARTS, ("", str(weights)), strict=True):
        logger.info("Fine-tuning for %d iterations, start: %s", COMPARE_ITERS, name)
        settings = [*opts, *short, "MODEL.WEIGHTS", start]
        cfg = make_config(args, args.config_file, folder / name, settings)
        found[name] = start_metrics(fractions(run(Trainer, cfg)))
    return found


def train_and_evaluate(args: argparse.Namespace, opts: list[str], clock: Clock):
    """Fine-tune (or load) and evaluate; returns the config and the evaluator's results."""

    class TimedTrainer(Trainer):
        @classmethod
        def test(cls, *inputs, **kwargs):
            with clock.phase("evaluate"):
                return super().test(*inputs, **kwargs)

    with clock.phase("train"):
        cfg = make_config(args, args.config_file, args.output, opts)
        if args.skip_train:
            model = PersonSearchPredictor(cfg, weights=str(args.output / "model_final.pth")).model
            return cfg, TimedTrainer.test(cfg, model)
        return cfg, run(TimedTrainer, cfg)


def search_example(cfg, output: Path) -> None:
    """Search for the example's person; writes ``matches.json`` and ``search.png``."""
    example = demo_example.choose_example(TEST_SET)
    logger.info("Searching for the person in %s", demo_example.describe(example))
    predictor = PersonSearchPredictor(cfg, weights=str(output / "model_final.pth"))
    image = read_image_bgr(example.file)
    embedding = predictor.embed(image, [example.box])[0]
    gallery = Gallery.build(predictor, ImageFolder(example.gallery))
    matches = search(gallery, embedding, topk=15)
    hits = [example.is_hit(match) for match in matches]
    report = {
        "query": {"file": example.file, **box_to_json(example.box)},
        "gallery": {"frames": gallery.num_frames, "people": len(gallery)},
        "matches": [{**m.to_json(), "correct": hit} for m, hit in zip(matches, hits)],
    }
    write_json(output / "matches.json", report, indent=2)
    images = iterate_frames((match.file, match.frame) for match in matches)
    name = Path(example.file).name
    sheet = draw_search(image, example.box, matches, images, hits, query_name=name)
    write_own_image(output / "search.png", sheet)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("demo"):
        run_demo(args)


def run_demo(args: argparse.Namespace) -> None:
    """Everything, from the video to the search."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Config and model at full length, and a table for spreadsheets, would bury the rest.
    for name in ("detectron2.engine.defaults", "detectron2.evaluation.testing"):
        logging.getLogger(name).setLevel(logging.WARNING)
    clock = Clock()
    args.output.mkdir(parents=True, exist_ok=True)
    if not args.skip_train:
        clear(args.output)
    with clock.phase("prepare"):
        opts = prepare(args)
    starts = {}
    if not args.skip_train:
        with clock.phase("pretrain"):
            weights = pretrain(args, opts)
        with clock.phase("compare"):
            starts = compare_starts(args, opts, weights)
        opts += ["MODEL.WEIGHTS", str(weights)]
    cfg, metrics = train_and_evaluate(args, opts, clock)
    logger.info("For comparison, colour histograms of ground-truth boxes:")
    with clock.phase("evaluate"):
        baseline = evaluate_hsv_baseline(TEST_SET, PROTOCOLS)
    with clock.phase("search"):
        search_example(cfg, args.output)
    memory = peak_rss_gb(cfg.DATALOADER.NUM_WORKERS)
    results = make_results(fractions(metrics), baseline, starts, clock.seconds(), memory)
    write_json(args.output / "results.json", results, indent=2)
    print(summary(results))
    print(f"results: {args.output / 'results.json'}, {args.output / 'search.png'}")
    print("search in a browser: make web, then http://127.0.0.1:8080/")
    if not all(beats_baseline(results, name) for name in PROTOCOLS):
        logger.warning("The model should beat the colour histogram on both protocols.")


if __name__ == "__main__":
    main()
