"""What a model costs: parameters, operations, the memory of a training step, and time."""

from spnet_d2.analysis.config import detecting, measured_config, measured_detector
from spnet_d2.analysis.data_timing import delivery, loader_rate, synthetic_corpus, time_mapper
from spnet_d2.analysis.memory import Account, Fit, account_step, fit_accounts
from spnet_d2.analysis.model_parts import (
    Limit,
    embedded_boxes,
    limit_works,
    timed_parts,
    timed_step,
)
from spnet_d2.analysis.operations import Part, inference_parts
from spnet_d2.analysis.program_cost import Cost, measure_program
from spnet_d2.analysis.timing import PartClock, Timing, measure
from spnet_d2.analysis.timing_report import (
    numbers,
    operators_table,
    parts_table,
    report,
    side_by_side,
)
from spnet_d2.analysis.whole_step import time_whole_steps

__all__ = [
    "Account",
    "Cost",
    "Fit",
    "Limit",
    "Part",
    "PartClock",
    "Timing",
    "account_step",
    "delivery",
    "detecting",
    "embedded_boxes",
    "fit_accounts",
    "inference_parts",
    "limit_works",
    "loader_rate",
    "synthetic_corpus",
    "measure",
    "measure_program",
    "measured_config",
    "measured_detector",
    "numbers",
    "operators_table",
    "parts_table",
    "report",
    "side_by_side",
    "time_mapper",
    "time_whole_steps",
    "timed_parts",
    "timed_step",
]
