"""The folder of a run: can it take what is going to be written, and where did a killed run stop?"""

import json
import logging
import os
import shutil
import uuid
from pathlib import Path

from torch import nn, optim

from spnet_d2.config_reader import ConfigError

logger = logging.getLogger(__name__)

# Numbers of a parameter's size that an optimiser keeps for each parameter.
_STATES = {optim.AdamW: 2, optim.SGD: 1}


def check_writable(folder: str | os.PathLike) -> None:
    """
    See that files can be made in a folder, which is made too where it is missing.

    Raises:
        OSError: they can't, and why.
        ConfigError: no folder is named.
    """
    if not os.fspath(folder):
        raise ConfigError("OUTPUT_DIR is empty, expected a folder; ./ is the working folder.")
    probe = Path(folder) / f".{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        with open(probe, "wb") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            f"Nothing can be written to OUTPUT_DIR {os.path.abspath(folder)}: {error}. Choose "
            "another OUTPUT_DIR, or make room or give yourself the right to write there."
        ) from error
    finally:
        if probe.is_file():
            probe.unlink()


def checkpoints_in(folder: str | os.PathLike) -> list[str]:
    """Names of the checkpoints that training left in a folder, the last one's name among them."""
    folder = Path(folder)
    patterns = ("last_checkpoint", "model_final.pth", "model_[0-9]*.pth", "backup_[0-9]*.pth")
    return [path.name for pattern in patterns for path in sorted(folder.glob(pattern))]


def refuse_run(folder: str | os.PathLike) -> None:
    """
    See that a folder is free for a new run.

    Raises:
        ConfigError: it holds checkpoints of another, which the new run would overwrite.
    """
    if found := checkpoints_in(folder):
        raise ConfigError(
            f"OUTPUT_DIR {os.path.abspath(folder)} holds a run already ({', '.join(found)}). "
            "Continue it with --resume, choose another OUTPUT_DIR, or remove that folder."
        )


def checkpoint_bytes(model: nn.Module, optimizer: optim.Optimizer) -> int:
    """Size of a checkpoint: the model, and what the optimiser will keep of its parameters."""
    states = next((n for kind, n in _STATES.items() if isinstance(optimizer, kind)), 0)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    stored = [*model.state_dict().values(), *(trained * states)]
    return sum(t.numel() * t.element_size() for t in stored)


def check_space(folder: str | os.PathLike, size: int, count: int) -> None:
    """
    Compare the free space of a disk with the size of the checkpoints still to be written; warn
    where it is scarce.

    Args:
        folder: where they go.
        size: bytes of one.
        count: how many.

    Raises:
        OSError: there is no room for a single one.
    """
    free = shutil.disk_usage(folder).free
    room = (
        f"{os.path.abspath(folder)} has {free / 2**30:.2f} GiB free, and a checkpoint takes "
        f"{size / 2**30:.2f} GiB"
    )
    if free < size:
        raise OSError(f"{room}. Make room or choose another OUTPUT_DIR.")
    if free < size * count:
        logger.warning(
            "%s: the %d of this run will not fit. Make room, or raise SOLVER.CHECKPOINT_EPOCHS or "
            "SOLVER.CHECKPOINT_PERIOD.",
            room,
            count,
        )


def cut_metrics(path: Path, start_iter: int | None) -> None:
    """
    Make the end of a ``metrics.json`` fit for what a run is going to append.

    A run that was killed may have written half a line, and lines of iterations after the
    checkpoint that it continues from, which come again. Both go; nothing before them does.

    Args:
        path: a JSON object per line, of Detectron2's ``JSONWriter``; it may be missing.
        start_iter: the first iteration to come again; None: a new run, nothing does.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    while lines and not _stays(lines[-1], start_iter):
        lines.pop()
    # At once, and in the file that the writer has open.
    os.truncate(path, sum(map(len, lines)))


def _stays(line: bytes, start_iter: int | None) -> bool:
    try:
        iteration = json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return False
    return line.endswith(b"\n") and (start_iter is None or iteration < start_iter)
