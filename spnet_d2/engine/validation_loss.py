"""The training losses on a test set: do they fall together, or does the model overfit?"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from spnet_d2.data.catalog import num_identities
from spnet_d2.data.loaders import build_loss_loader
from spnet_d2.engine import random_state
from spnet_d2.engine.step import training_precision
from spnet_d2.modeling import SPNet
from spnet_d2.modeling.precision import autocast
from spnet_d2.modeling.whole_batch import alone


def validation_losses(cfg: CfgNode, model: nn.Module) -> dict:
    """
    Mean losses over the batches of pairs of every set of ``DATASETS.TEST``.

    The model is in training mode but for its batch norms, which use their running statistics. The
    re-id loss and the gallery filter have empty memories of their own, so training's stay as they
    are, and so do the momentum encoder, all weights and the random generators. The result depends
    on nothing but the weights.

    Args:
        model: an SPNet, or what ``DistributedDataParallel`` wraps around it.

    Returns:
        ``{"val": {"loss_anchor": ..., "total_loss": ...}}``; of several test sets, one such dict
        for each by name below ``"val"``. The same on all processes.
    """
    network: Any = getattr(model, "module", model)
    names = cfg.DATASETS.TEST
    results = {name: _losses_on(cfg, network, name) for name in names}
    return {"val": results[names[0]] if len(names) == 1 else results}


def _losses_on(cfg: CfgNode, model: SPNet, name: str) -> dict[str, float]:
    loader = build_loss_loader(cfg, name)
    # Processes have different numbers of batches, each of which is a whole one.
    sums: Counter[str] = Counter()
    with (
        random_state.preserved(),
        alone(),
        _training_untouched(cfg, model, name),
        torch.no_grad(),
        autocast(cfg.MODEL.DEVICE, training_precision(cfg)),
    ):
        # Which anchors and pairs are drawn is the same at every evaluation.
        torch.manual_seed(max(cfg.SEED, 0) + comm.get_rank())
        for batch in tqdm(loader, desc=f"losses on {name}", disable=None):
            sums.update({key: value.item() for key, value in model(batch).items()})
            sums["batches"] += 1
    total: Counter[str] = Counter()
    for part in comm.all_gather(dict(sums)):
        total.update(part)
    batches = total.pop("batches")
    means = {key: value / batches for key, value in total.items()}
    return {**means, "total_loss": sum(means.values())}


@contextmanager
def _training_untouched(cfg: CfgNode, model: SPNet, name: str) -> Iterator[None]:
    """Training mode with a re-id memory for the people of ``name``; then all as before."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = num_identities((name,))
    memory = model.roi_heads.reid_loss
    modes = {module: module.training for module in model.modules()}
    try:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        model.roi_heads.reid_loss = memory.from_config(cfg).to(cfg.MODEL.DEVICE)
        scenes = model.gallery_filter
        with nullcontext() if scenes is None else scenes.untouched():
            yield
    finally:
        model.roi_heads.reid_loss = memory
        for module, mode in modes.items():
            module.training = mode
