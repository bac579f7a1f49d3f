"""``TEST.EXPECTED_RESULTS``: end a run with an error where its results are others."""

from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results

from spnet_d2.config_reader import ConfigError


def verify_expected(cfg: CfgNode, results: Mapping) -> None:
    """
    Detectron2's ``verify_results``, which ends the program with status 1 where results differ.

    Args:
        cfg: of the job.
        results: of its last evaluation, percent: task -> metric -> value.

    Raises:
        ConfigError: an entry that results can't be compared with.
    """
    try:
        verify_results(cfg, results)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        known = {task: list(metrics) for task, metrics in results.items()}
        raise ConfigError(
            f"TEST.EXPECTED_RESULTS is {cfg.TEST.EXPECTED_RESULTS}, expected entries [task, "
            f"metric, value, tolerance] of these tasks and metrics: {known}. Everything else is "
            "done: --resume evaluates again."
        ) from error
