"""The re-id losses by name: what ``MODEL.SPNET.REID.LOSS`` may be."""

from collections.abc import Callable
from typing import ClassVar

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn


class ReidLoss(nn.Module):
    """
    Base of the re-id losses.

    ``forward`` takes embeddings (n, D_r), ground truth last, their identities (n,) and, by name,
    what ``takes`` has; it returns a scalar. The batch may be shared out to processes and parts,
    and :mod:`..whole_batch` knows which of them a thread is running. A loss asks it:

    - ``mean(total, count)`` divides by the whole batch's count;
    - ``whole_rows(num_gt, ...)`` are the whole batch's rows for a memory, None until the last part;
    - with gradient accumulation every part comes twice. Rows that enter a memory before the loss
      are collected ``in_first_pass()``, those that enter it afterwards ``in_last_pass()``, which is
      the one whose loss counts. Without accumulation both are true.

    Attributes:
        id_field: ground-truth field with the identities: ``gt_person_ids`` (whatever tells people
            apart) or ``gt_identities`` (rows of a table, -1 for unknown people).
        takes: ``num_gt``, how many rows are ground truth; ``teacher``, the momentum encoder's
            embeddings (n, D_r) of the same boxes.
        divides_by_rows: the sum over rows is divided by their number, and needs nothing of the
            batch's other parts: with gradient accumulation, ground truth then needs no counting.
        learns_known_people: it has a row for each of ``NUM_IDENTITIES`` known people of the
            training set, and nothing to learn from others alone.
    """

    id_field: ClassVar[str] = "gt_person_ids"
    takes: ClassVar[tuple[str, ...]] = ()
    divides_by_rows: ClassVar[bool] = False
    learns_known_people: ClassVar[bool] = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ReidLoss":
        """The loss that ``MODEL.SPNET.REID`` describes, for embeddings of ``REID_DIM``."""
        raise NotImplementedError(f"{cls.__name__} needs a classmethod from_config(cfg).")


class _ReidLosses(Registry):
    """Detectron2's registry, with names of their own for the classes."""

    def register(self, name: str) -> Callable[[type], type]:
        """Decorator that adds a :class:`ReidLoss` as ``name``."""

        def add(kind: type) -> type:
            self._do_register(name, kind)
            return kind

        return add


REID_LOSSES = _ReidLosses("REID_LOSSES")


def reid_loss_class(cfg: CfgNode) -> type[ReidLoss]:
    """
    The class that ``MODEL.SPNET.REID.LOSS`` names.

    Raises:
        ValueError: no loss of this name is registered.
    """
    name = cfg.MODEL.SPNET.REID.LOSS
    if name not in REID_LOSSES:
        known = ", ".join(known for known, _ in REID_LOSSES)
        raise ValueError(f"MODEL.SPNET.REID.LOSS is {name!r}, expected one of {known}.")
    return REID_LOSSES.get(name)


def build_reid_loss(cfg: CfgNode) -> ReidLoss:
    """The re-id loss of ``MODEL.SPNET.REID``, with its memory."""
    return reid_loss_class(cfg).from_config(cfg)
