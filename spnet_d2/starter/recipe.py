"""A training of several parts: each is a run of its own, resumed or skipped."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from spnet_d2.config_files import get_config_file
from spnet_d2.utils.own_process import train_command, with_this_package
from spnet_d2.utils.run_record import Record


def train_part(config: str, output: Path, opts: Sequence[str], num_gpus: int) -> Path:
    """
    Train, in a process of its own, unless that is done.

    Args:
        config: below ``projects_configs``, without suffix.
        output: of the run.
        opts: KEY VALUE settings.
        num_gpus: 0: on the CPU.

    Returns:
        The weights' path.

    Raises:
        ValueError: ``output`` has a run of other settings.
        SystemExit: the run failed; it has said why.
    """
    weights, record = output / "model_final.pth", Record(output / "made_with.json")
    settings = {key: value for key, value in zip(opts[::2], opts[1::2]) if key != "MODEL.DEVICE"}
    if weights.is_file() or (output / "last_checkpoint").is_file():
        record.settle(settings)
    else:
        # Of a run that failed before its first checkpoint nothing is left to go on from.
        record.write(settings)
    if weights.is_file():
        return weights
    command = [*train_command(get_config_file(config)), "--num-gpus", str(num_gpus)]
    done = subprocess.run(
        [*command, "OUTPUT_DIR", str(output), *opts], env=with_this_package(os.environ)
    )
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return weights
