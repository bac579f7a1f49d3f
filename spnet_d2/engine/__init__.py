"""Training and evaluation jobs: config, optimiser, schedule, checkpoints, exact resume."""

from spnet_d2.checkpoint.checkpointer import Checkpointer
from spnet_d2.engine.job_config import setup
from spnet_d2.engine.optimizer import build_optimizer
from spnet_d2.engine.schedule import resolve_schedule
from spnet_d2.engine.serve import serve
from spnet_d2.engine.trainer import Trainer

__all__ = ["Checkpointer", "Trainer", "build_optimizer", "resolve_schedule", "serve", "setup"]
