#!/usr/bin/env python3
"""Draw the paper's Figures 6 to 8 and write its tables as LaTeX, from finished experiments.

    python tools/plot_results.py                        what lies below outputs/
    python tools/plot_results.py figure7 table9 --output report --format png
    python tools/plot_results.py table5 --paper         with the paper's own metrics

Read are the metrics.json of evaluations (OUTPUT_DIR/inference/<data set>/metrics.json), wherever
tools/reproduce.py or tools/train_net.py left them. Experiments that are not finished are left out
of metrics, and are dashes in tables.
"""

import argparse
from pathlib import Path

from spnet_d2.experiments.index import OUTPUT_ROOT, load_index
from spnet_d2.experiments.latex import LATEX_TABLES, latex_table
from spnet_d2.experiments.results import reached
from spnet_d2.utils.atomic_io import atomic_path

try:
    from spnet_d2.experiments.plots import FIGURES, drawn
except ImportError as error:
    raise SystemExit(f'plot_results: {error}. pip install -e ".[plot]"') from error

ROOT = Path(__file__).resolve().parents[1]
DPI = 300


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    names = [*FIGURES, *LATEX_TABLES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(names)}")
    parser.add_argument("--runs", type=Path, default=Path(OUTPUT_ROOT), help="%(default)s")
    parser.add_argument("--paper", action="store_true", help="draw the paper's metrics instead")
    parser.add_argument(
        "--output", type=Path, default=Path(OUTPUT_ROOT, "plots"), help="folder (%(default)s)"
    )
    parser.add_argument("--format", choices=("pdf", "png", "svg"), default="pdf")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in names]
    if unknown:
        parser.error(f"no {', '.join(unknown)}; choose from {', '.join(names)}")
    args.names = args.names or names
    return args


def main(argv: list[str] | None = None) -> list[Path]:
    args = parse_args(argv)
    index = load_index(ROOT)
    if args.paper:
        metrics = {e.name: e.paper.metrics for e in index if e.paper.metrics}
    else:
        metrics = reached(index, args.runs)
    if not metrics:
        raise SystemExit(
            f"plot_results: no evaluated experiment below {args.runs.absolute()}. Run some with "
            "tools/reproduce.py, or name another folder by --runs."
        )
    written = []
    for name in args.names:
        if name in FIGURES:
            figure = FIGURES[name](metrics)
            if not drawn(figure):
                print(f"{name}: nothing is known of its experiments")
                continue
            path = args.output / f"{name}.{args.format}"
            with atomic_path(path) as part:
                figure.savefig(part, dpi=DPI)
        else:
            path = args.output / f"{name}.tex"
            with atomic_path(path) as part:
                part.write_text(latex_table(name, metrics) + "\n", encoding="utf-8")
        print(path)
        written.append(path)
    return written


if __name__ == "__main__":
    main()
