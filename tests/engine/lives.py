"""Training processes that are killed (SIGKILL) at a moment that is chosen beforehand.

They are forked from a server that has imported everything, so that a life costs a second.
"""

import builtins
import multiprocessing
import os
import signal
import threading
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog

from spnet_d2.checkpoint import checkpointer
from spnet_d2.data.catalog import register_person_search
from spnet_d2.engine import Trainer, setup


@dataclass(frozen=True)
class Death:
    """
    When a process ends itself, without a chance to clean up.

    Attributes:
        step: after so many training steps of its life (0: from its very start) ...
        seconds: ... and this time, whatever it is doing then.
        save: instead, while it saves for this time (from 1 on) ...
        operation: ... before this write, sync or rename (from 0 on); half of a write is done.
    """

    step: int = 0
    seconds: float = 0.0
    save: int = 0
    operation: int = 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Recorder:
    """Notes what is done to files while a checkpoint is saved, and dies at the given moment."""

    def __init__(self, death: Death | None):
        self.death = death
        self.saves: list[list[str]] = []
        self._sync, self._rename = os.fsync, os.replace
        os.fsync, os.replace = self.fsync, self.replace
        checkpointer.open = self.open

    def due(self, name: str) -> bool:
        """Note an operation; whether it is the last one."""
        if not self.saves:
            return False
        self.saves[-1].append(name)
        death = self.death
        return (
            death is not None
            and death.save == len(self.saves)
            and death.operation == len(self.saves[-1]) - 1
        )

    def fsync(self, descriptor) -> None:
        if self.due("fsync"):
            die()
        self._sync(descriptor)

    def replace(self, source, target) -> None:
        if self.due("replace"):
            die()
        self._rename(source, target)

    def open(self, path, mode):
        return RecordedFile(builtins.open(path, mode), self)


class RecordedFile:
    def __init__(self, file, recorder: Recorder):
        self.file, self.recorder = file, recorder
        self.flush, self.fileno = file.flush, file.fileno

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    def write(self, content) -> int:
        if self.recorder.due("write"):
            self.file.write(bytes(content)[: len(content) // 2])
            self.file.flush()
            die()
        return self.file.write(content)


def train(corpus: Path, opts: list, death: Death | None, report) -> None:
    """One life: train from the last checkpoint on, to the end or to death."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    if death and not death.save and not death.step:
        threading.Timer(death.seconds, die).start()
    if "tiny_train" not in DatasetCatalog:
        register_person_search("tiny_train", corpus / "people.json", corpus)
    recorder = Recorder(death)
    trainer = Trainer(setup(Namespace(config_file="", opts=opts)))
    trainer.resume_or_load(resume=True)
    step, save = trainer.run_step, trainer.checkpointer.save
    first_step = time.perf_counter()

    def counted_step():
        step()
        if death and death.step == trainer.iter - trainer.start_iter + 1:
            threading.Timer(death.seconds, die).start()

    def recorded_save(*args, **kwargs):
        recorder.saves.append([])
        save(*args, **kwargs)

    trainer.run_step, trainer.checkpointer.save = counted_step, recorded_save
    trainer.train()
    steps = trainer.max_iter - trainer.start_iter
    report.send(
        {
            "start": first_step - start,
            "step": (time.perf_counter() - first_step) / steps,
            "operations": recorder.saves[0],
        }
    )


def live(corpus: Path, opts: list, death: Death | None = None) -> tuple[int, dict | None]:
    """
    Run :func:`train` in a process of its own.

    Returns:
        Its exit code (minus a signal's number), and what it measured if it came to the end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(corpus, opts, death, sender))
    process.start()
    sender.close()
    process.join()
    return process.exitcode, receiver.recv() if process.exitcode == 0 else None
