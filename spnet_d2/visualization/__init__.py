"""Evaluations to look at: curves, ranked images, and a report of both as one HTML file."""

from spnet_d2.visualization.html_report import write_report
from spnet_d2.visualization.recorder import RankingRecorder

__all__ = ["RankingRecorder", "write_report"]
