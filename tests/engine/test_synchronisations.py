"""How often a whole training step waits for the GPU: model, optimiser and trainer, on a CPU."""

import pytest
from detectron2.utils.events import EventStorage

from spnet_d2.engine.optimizer import build_optimizer
from spnet_d2.engine.step import build_step_trainer
from tests.modeling.synchronisations import Synchronisations
from tests.modeling.test_synchronisations import PRETRAINING, batch
from tests.modeling.tiny import tiny_config, tiny_model

SPNET_L = (
    *("MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.SEPARATE_HEADS", True),
    *("MODEL.SPNET.REID_DIM", 32),
)
LIMITS = {
    "object-centric": ((), 12),
    "query-centric": (PRETRAINING, 20),
    "SPNet-L": (SPNET_L, 24),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_whole_step(kind):
    overrides, limit = LIMITS[kind]
    cfg, model, inputs = tiny_config(*overrides), tiny_model(*overrides), batch()
    optimizer = build_optimizer(cfg, model)
    trainer = build_step_trainer(cfg, model, [inputs] * 3, optimizer)
    seen = Synchronisations(model)
    with EventStorage() as storage:
        for trainer.iter in range(2):
            # Anchors of these sizes, and the optimiser's state, are there by the last one.
            trainer.run_step()
        for state in optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                seen.put(state[name])
        with seen.watch():
            trainer.run_step()
        assert storage.latest()["total_loss"]
    assert 0 < seen.total <= limit, seen.counts
    assert seen.uploads <= 2 and seen.operators > 1000
