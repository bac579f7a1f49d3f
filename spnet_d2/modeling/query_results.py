"""What an image's queries found, query by query, cut out of one table where somebody asks."""

from collections.abc import Sequence
from typing import overload

import torch
from detectron2.structures import Boxes, Instances


class QueryInstances(Sequence[Instances]):
    """
    One ``Instances`` per query, without ``query_index``.

    A frame may have thousands of queries. Evaluation reads the table, so their ``Instances`` are
    made when the first one is read; the length needs none.
    """

    def __init__(self, found: Instances, num_queries: int):
        """
        Args:
            found: detections of all queries, with ``query_index``, ascending.
            num_queries: Q.
        """
        self._found, self._number = found, num_queries
        self._parts: list[Instances] | None = None

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> Instances: ...

    @overload
    def __getitem__(self, index: slice) -> list[Instances]: ...

    def __getitem__(self, index):
        if self._parts is None:
            self._parts = split_by_query(self._found, self._number)
        return self._parts[index]


def split_by_query(found: Instances, num_queries: int) -> list[Instances]:
    """
    Part an image's detections by query.

    Args:
        found: with ``query_index``, ascending.
        num_queries: Q.

    Returns:
        One ``Instances`` per query, without ``query_index``.
    """
    queries = torch.arange(num_queries, device=found.query_index.device)
    ends = torch.searchsorted(found.query_index, queries, right=True).tolist()
    counts = [end - start for start, end in zip([0, *ends], ends)]
    boxes = [Boxes(part) for part in found.pred_boxes.tensor.split(counts)]
    names = [n for n in found.get_fields() if n not in ("query_index", "pred_boxes")]
    columns = [found.get(name).split(counts) for name in names]
    return [
        Instances(found.image_size, pred_boxes=box, **dict(zip(names, values)))
        for box, *values in zip(boxes, *columns, strict=True)
    ]
