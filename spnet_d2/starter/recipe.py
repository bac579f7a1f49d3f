"""A training of several parts: each is a run of its own, resumed or skipped."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from spnet_d2.config_files import get_config_file


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
        SystemExit: the run failed; it has said why.
    """
    weights = output / "model_final.pth"
    if weights.is_file():
        return weights
    command = [sys.executable, "-c", "from spnet_d2.cli.train_net import run; run()", "--resume"]
    command += ["--config-file", get_config_file(config), "--num-gpus", str(num_gpus)]
    # Found as this process found it, installed or not.
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "OUTPUT_DIR", str(output), *opts], env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return weights
