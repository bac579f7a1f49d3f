"""Training steps of tiny models on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.utils.events import EventStorage

from spnet_d2.engine.optimizer import build_optimizer
from spnet_d2.engine.step import StepTrainer
from tests.modeling.tiny import tiny_config, tiny_input, tiny_model

BOX_A, BOX_B = (10, 20, 60, 90), (70, 5, 120, 80)
# Settings of every kind of training step.
OC = ()
QC = (
    *("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.REID.LOSS", "momentum_queue"),
    *("MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True, "MODEL.SPNET.REID.QUEUE_SIZE", 64),
)
LARGE = ("MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.SEPARATE_HEADS", True)
KINDS = {"OC": OC, "QC": QC, "large": LARGE}


def people_batch(images: int = 4) -> list[dict]:
    """Two views of every image, each with two people."""
    return [
        tiny_input(i, BOX_A, BOX_B, file_name=f"{i}.png") for i in range(images // 2) for _ in "ab"
    ]


def build(device: str, *settings, precision: str = "float32", lr: float = 1e-3) -> StepTrainer:
    """A trainer of a tiny model whose batches come from ``trainer.batches``, a list."""
    settings = ("MODEL.DEVICE", device, *settings)
    model = tiny_model(*settings).train()
    cfg = tiny_config(*settings, "SOLVER.BASE_LR", lr)
    batches: list[list[dict]] = []

    def endless() -> Iterator[list[dict]]:
        while True:
            yield batches.pop(0)

    trainer = StepTrainer(model, endless(), build_optimizer(cfg, model), precision=precision)
    trainer.batches, trainer.iter = batches, 0
    return trainer


def run(trainer: StepTrainer, *batches: list[dict]) -> list[dict[str, float]]:
    """Losses (and all else that is logged) of a step for each batch."""
    trainer.batches += batches
    results = []
    with EventStorage() as storage:
        for _ in batches:
            trainer.run_step()
            results.append({name: value for name, (value, _) in storage.latest().items()})
    return results


@contextmanager
def counted_synchronisations() -> Iterator[list[str]]:
    """Messages of CUDA about every time that the host waited for the device."""
    import warnings

    torch.cuda.set_sync_debug_mode("warn")
    found: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
        found += [str(w.message) for w in caught if "synchronizing" in str(w.message)]
