"""Experiments beside what was reached, as text and as Markdown."""

from collections.abc import Iterable, Mapping

from tabulate import tabulate

from spnet_d2.experiments.index import Experiment, Index
from spnet_d2.experiments.results import HEADINGS


def pair(metrics: Mapping[str, float] | None) -> str:
    """ "mAP / top-1", as far as known."""
    metrics = metrics or {}
    values = [f"{metrics[k]:.1f}" if k in metrics else "" for k in ("mAP", "top1")]
    return " / ".join(value for value in values if value)


def hours(experiment: Experiment) -> str:
    """GPU hours of one experiment; a star where they are derived."""
    paper = experiment.paper
    if paper.hours is None:
        return ""
    return f"{paper.hours:.1f}{'*' if paper.derived else ''}"


def list_table(index: Index, experiments: Iterable[Experiment], done: Mapping) -> str:
    """One line per experiment, for the terminal."""
    rows = []
    for experiment in experiments:
        steps = index.chain(experiment)
        same = [] if steps[-1] is experiment else [experiment.name]
        rows.append(
            [
                experiment.name,
                "; ".join(experiment.paper.rows) or "(authors' file only)",
                pair(experiment.paper.metrics),
                pair(done.get(experiment.name)),
                hours(experiment),
                " -> ".join([*(step.name for step in steps)]) + (" (same run)" if same else ""),
            ]
        )
    headers = ["experiment", "in the paper", "paper", "here", "GPU h", "chain"]
    return tabulate(rows, headers, disable_numparse=True)


def markdown_table(experiments: Iterable[Experiment], done: Mapping) -> str:
    """The rows of docs/experiments.md."""
    lines = [
        "| experiment | in the paper | paper | ours | GPU h |",
        "|---|---|---|---|---|",
    ]
    for experiment in experiments:
        place = "; ".join(experiment.paper.rows) or "(authors' file only)"
        cells = [
            f"[`{experiment.name}`](../projects_configs/{experiment.name}.yaml)",
            place,
            pair(experiment.paper.metrics),
            pair(done.get(experiment.name)),
            hours(experiment).replace("*", "\\*"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison(experiment: Experiment, metrics: Mapping[str, float]) -> str:
    """What was reached beside what was published."""
    rows = []
    for name, heading in HEADINGS.items():
        mine, paper = metrics.get(name), experiment.paper.metrics.get(name)
        difference = f"{mine - paper:+.1f}" if mine is not None and paper is not None else ""
        cells = ["-" if value is None else f"{value:.1f}" for value in (mine, paper)]
        rows.append([heading, *cells, difference])
    return tabulate(
        rows,
        [experiment.name, "reached", "published", ""],
        disable_numparse=True,
        colalign=("left", "right", "right", "right"),
    )
