#!/usr/bin/env python3
"""Person search on real footage: search with the starter weights, fine-tune them, search again.

    make demo        or        python tools/demo.py [--output DIR] [--seed N] [KEY VALUE ...]

Prepares PETS09 (an apt-get download, or --video), which the starter weights have never seen. They
are evaluated on it, and look for a person who left the image and came back. Then they are
fine-tuned object-centrically on the first part of the footage, and do the same again; a colour
histogram is evaluated, too. KEY VALUE settings hold for the training.
Written to --output: results.json, unseen.png, search.png, matches.json, config.yaml,
model_final.pth, logs. Running it again replaces them.
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

from spnet_d2.config_reader import read_config
from spnet_d2.data.catalog import register_builtin_datasets
from spnet_d2.data.own_images import write_own_image
from spnet_d2.demo import example as demo_example
from spnet_d2.demo.hsv_baseline import evaluate_hsv_baseline
from spnet_d2.demo.results import (
    PROTOCOLS,
    Clock,
    beats_baseline,
    make_results,
    peak_rss_gb,
    summary,
)
from spnet_d2.engine import Trainer, setup
from spnet_d2.errors import errors_in_one_line
from spnet_d2.evaluation.report import fractions
from spnet_d2.pretrained import pretrained_files
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
from spnet_d2.utils.settings_option import add_settings_option

logger = logging.getLogger("spnet_d2.demo")

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "projects_configs" / "pets09"
TEST_SET = "pets09_test"
SHOWN = ("results.json", "unseen.png", "search.png")
# What a run writes; nothing else is removed from the output folder.
OWN_FILES = (
    "model_*.pth", "model_*.pth.part", "last_checkpoint", "config.yaml", "metrics.json", "log.txt*",
    "events.out.tfevents.*", "results.json", "matches.json", "search.png", "unseen.png",
    "inference",
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
        "--datasets", type=Path, default=data, help="folder that has or gets pets09/"
    )
    parser.add_argument("--video", type=Path, help="vtest.avi, instead of downloading it")
    parser.add_argument(
        "--skip-train", action="store_true", help="use model_final.pth of the last run"
    )
    add_settings_option(parser)
    args = parser.parse_args(argv)
    if not args.config_file.is_file():
        parser.error(f"no config file at {args.config_file.absolute()}")
    if args.skip_train and not (args.output / "model_final.pth").is_file():
        parser.error(f"--skip-train, but {args.output} holds no model_final.pth")
    return args


def prepare(args: argparse.Namespace) -> None:
    """Make the data set."""
    command = [sys.executable, str(ROOT / "datasets" / "prepare_pets09.py")]
    command += ["--output", str(args.datasets / "pets09")]
    command += ["--video", str(args.video)] if args.video else []
    if subprocess.run(command).returncode:
        raise SystemExit("demo: PETS09 could not be prepared; the message above says why.")
    register_builtin_datasets(args.datasets)


def clear(output: Path) -> None:
    """Remove what an earlier run left, so that nothing of it mixes with this one."""
    for path in (path for pattern in OWN_FILES for path in output.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_config(args: argparse.Namespace):
    """The config of the training; the command line's settings win."""
    # Lines would come several times, and end up in the log of a run before.
    remove_log_handlers()
    weights = pretrained_files("starter")[1]
    opts = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(args.output), "SEED", str(args.seed)]
    job = argparse.Namespace(
        config_file=str(args.config_file),
        opts=[*opts, *args.opts],
        num_gpus=min(1, torch.cuda.device_count()),
        eval_only=args.skip_train,
    )
    return setup(job)


def try_starter(output: Path) -> dict:
    """Evaluate the starter weights on footage that they have not seen, and search in it."""
    logger.info("The starter weights, on footage that they have never seen:")
    config, weights = pretrained_files("starter")
    cfg = read_config(config, ["DATASETS.TEST", f"('{TEST_SET}',)", "OUTPUT_DIR", str(output)])
    cfg.TEST.PROTOCOLS = PROTOCOLS
    predictor = PersonSearchPredictor(cfg, weights=str(weights))
    search_example(predictor, output / "unseen.png")
    return Trainer.test(cfg, predictor.model)


def train_and_evaluate(args: argparse.Namespace, clock: Clock):
    """Fine-tune (or load) and evaluate; returns the config and the evaluator's results."""

    class TimedTrainer(Trainer):
        @classmethod
        def test(cls, *inputs, **kwargs):
            with clock.phase("evaluate"):
                return super().test(*inputs, **kwargs)

    with clock.phase("train"):
        cfg = make_config(args)
        if args.skip_train:
            model = PersonSearchPredictor(cfg, weights=str(args.output / "model_final.pth")).model
            return cfg, TimedTrainer.test(cfg, model)
        trainer = TimedTrainer(cfg)
        trainer.resume_or_load(resume=False)
        return cfg, trainer.train()


def search_example(predictor: PersonSearchPredictor, picture: Path) -> dict:
    """Search for the example's person; draws the result and returns what was found."""
    example = demo_example.choose_example(TEST_SET)
    logger.info("Searching for the person in %s", demo_example.describe(example))
    image = read_image_bgr(example.file)
    embedding = predictor.embed(image, [example.box])[0]
    gallery = Gallery.build(predictor, ImageFolder(example.gallery))
    matches = search(gallery, embedding, topk=15)
    hits = [example.is_hit(match) for match in matches]
    images = iterate_frames((match.file, match.frame) for match in matches)
    name = Path(example.file).name
    sheet = draw_search(image, example.box, matches, images, hits, query_name=name)
    write_own_image(picture, sheet)
    return {
        "query": {"file": example.file, **box_to_json(example.box)},
        "gallery": {"frames": gallery.num_frames, "people": len(gallery)},
        "matches": [{**m.to_json(), "correct": hit} for m, hit in zip(matches, hits)],
    }


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
        prepare(args)
    with clock.phase("starter"):
        starter = try_starter(args.output)
    cfg, metrics = train_and_evaluate(args, clock)
    logger.info("For comparison, colour histograms of ground-truth boxes:")
    with clock.phase("evaluate"):
        baseline = evaluate_hsv_baseline(TEST_SET, PROTOCOLS)
    with clock.phase("search"):
        predictor = PersonSearchPredictor(cfg, weights=str(args.output / "model_final.pth"))
        found = search_example(predictor, args.output / "search.png")
        write_json(args.output / "matches.json", found, indent=2)
    memory = peak_rss_gb(cfg.DATALOADER.NUM_WORKERS)
    metrics, starter = fractions(metrics), fractions(starter)
    results = make_results(metrics, starter, baseline, clock.seconds(), memory)
    write_json(args.output / "results.json", results, indent=2)
    print(summary(results))
    print(f"results: {', '.join(str(args.output / name) for name in SHOWN)}")
    print("search in a browser: make web, then http://127.0.0.1:8080/")
    if not all(beats_baseline(results, name) for name in PROTOCOLS):
        logger.warning("The model should beat the colour histogram on both protocols.")


if __name__ == "__main__":
    main()
