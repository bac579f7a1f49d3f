"""Turn another project's detections and features into a predictions file for evaluate.py.

    python tools/convert_predictions.py --from seqnet data/eval_cache/eval_cache.pth \\
        --annotations datasets/cuhk/coco/test.json --protocol datasets/cuhk/retrieval/G100.json \\
        --names datasets/cuhk/annotation/pool.mat --output seqnet.npz
    python tools/evaluate.py --annotations datasets/cuhk/coco/test.json \\
        --protocol datasets/cuhk/retrieval/G100.json --predictions seqnet.npz --cws

These files say nothing of names, so --names gives the order of their images: pool.mat of CUHK-SYSU,
frame_test.mat of PRW, or a text file with a name a line. Files are read without running any code
that is in them. docs/comparing.md has all projects, and what to add to those that save nothing.
"""

import argparse
from pathlib import Path

from spnet_d2.data.person_search_json import load_person_search_table, load_protocol
from spnet_d2.errors import exit_status
from spnet_d2.evaluation.peers import PROJECTS, convert_dump, read_dump, read_image_names


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="project", choices=list(PROJECTS), required=True)
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="what the project saved (oim: the folder)",
    )
    parser.add_argument("--annotations", type=Path, required=True, help="person-search JSON")
    parser.add_argument(
        "--protocol",
        type=Path,
        required=True,
        help="protocol JSON whose queries are in the order of the files",
    )
    parser.add_argument("--names", type=Path, help="image names in the file's order")
    parser.add_argument(
        "--score-floor",
        type=float,
        metavar="SCORE",
        help="map scores so that this one becomes 0.5, below which detections are left out",
    )
    parser.add_argument("--output", type=Path, required=True, help=".npz file")
    args = parser.parse_args(argv)
    if args.score_floor is not None and not 0 < args.score_floor < 1:
        parser.error(f"--score-floor must be between 0 and 1, found {args.score_floor}")
    if args.output.suffix != ".npz":
        parser.error(f"--output must end in .npz, found {args.output}")
    return args


def run(args: argparse.Namespace) -> None:
    """Convert, write, and say what the numbers mean."""
    names = read_image_names(args.names) if args.names else None
    table = load_person_search_table(args.annotations)
    queries = list(load_protocol(args.protocol).queries)
    dump = read_dump(args.project, args.files)
    predictions, notes = convert_dump(args.project, dump, table, queries, names, args.score_floor)
    predictions.save(args.output)
    print(
        f"{args.output}: {len(predictions.boxes)} detections in {len(dump.boxes)} images, "
        f"{len(predictions.gt_annotation_ids)} queries"
    )
    for note in notes:
        print(f"- {note}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    return exit_status("convert_predictions", lambda: run(args))
