"""Training that is killed, again and again, and continued: the same weights come out."""

import json
import signal
from pathlib import Path

import numpy as np
import torch

from spnet_d2.checkpoint.files import find_damage
from tests.engine.equality import assert_equal
from tests.engine.lives import Death, live

LIVES = 12
# More than they can do: of four lives in a row, the second makes some 4 steps beyond what was
# saved, the third 2 and the fourth 4.
ITERATIONS = 34


def settings(tiny_opts, output: Path) -> list:
    return [
        *tiny_opts,
        *("DATASETS.TEST", "()", "MODEL.SPNET.ANCHORS_PER_IMAGE", 8),
        *("SOLVER.EPOCHS", 0, "SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 2),
        *("OUTPUT_DIR", str(output)),
    ]


def draw(rng: np.random.Generator, life: int, measured: dict) -> Death:
    """In turn: at any time of the start, of a step, while the file is written, and after that."""
    operations = measured["operations"]
    kind = life % 4
    if kind == 0:
        return Death(seconds=rng.uniform(0, measured["start"]))
    if kind == 1:
        step = int(rng.integers(3, 5))
        return Death(step=step, seconds=rng.uniform(0, measured["step"]))
    written = operations.index("fsync")
    low, high = (0, written) if kind == 2 else (written, len(operations))
    return Death(save=int(rng.integers(1, 3)), operation=int(rng.integers(low, high)))


def damage(folder: Path, rng: np.random.Generator) -> Path:
    """Cut the last checkpoint off, or change a bit of it."""
    path = folder / (folder / "last_checkpoint").read_text()
    content = bytearray(path.read_bytes())
    place = int(rng.integers(len(content) // 4, len(content) // 2))
    if rng.random() < 0.5:
        del content[place:]
    else:
        content[place] ^= 1
    path.write_bytes(content)
    return path


def test_killed_again_and_again(tiny_corpus, tiny_opts, tmp_path):
    rng = np.random.default_rng(0)
    code, measured = live(tiny_corpus, settings(tiny_opts, tmp_path / "whole"))
    assert code == 0
    opts, folder = settings(tiny_opts, tmp_path / "killed"), tmp_path / "killed"
    damaged = []
    for life in range(LIVES):
        code, _ = live(tiny_corpus, opts, draw(rng, life, measured))
        assert code == -signal.SIGKILL, f"life {life}"
        for path in folder.glob("*.pth"):
            assert path in damaged or find_damage(path) is None, (life, path)
        if life in (7, 9):  # two checkpoints are there at least
            damaged = [damage(folder, rng)]
    assert live(tiny_corpus, opts)[0] == 0

    final = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        for name in ("whole", "killed")
    ]
    assert_equal(*final)
    log = (folder / "log.txt").read_text()
    assert log.count("it is passed over") == log.count("Continuing from the checkpoint before") >= 2
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.json").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    iterations = [[row["iteration"] for row in part] for part in rows]
    assert iterations[0] == iterations[1]
