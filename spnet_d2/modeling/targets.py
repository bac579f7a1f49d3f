"""Ground truth of a batch on the model's device, with the numbers that the host knows of it.

Shapes: ``N`` images, ``n`` ground-truth boxes of the batch, ``G`` of the image with most, ``I``
ignore regions of the image with most.
"""

from dataclasses import dataclass, field

import torch
from detectron2.structures import Boxes
from torch import Tensor


@dataclass
class Targets:
    """
    Ground truth, image by image.

    Attributes:
        rois: (n, 5) the image's position and the box, xyxy pixels of the network's input.
        ids: (n,) int64 identities, as the re-id loss takes them.
        rows: (N, G) int64 rows of each image's boxes; what is left is n, the empty box.
        sizes: (N, 2) heights and widths of the images.
        ignore: (N, I, 4) regions whose background trains nothing, filled up with empty boxes.
        counts: number of boxes of each image.
        ignore_counts: number of regions of each image.
    """

    rois: Tensor
    ids: Tensor
    rows: Tensor
    sizes: Tensor
    ignore: Tensor
    counts: list[int] = field(default_factory=list)
    ignore_counts: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.counts)

    @classmethod
    def collect(
        cls,
        boxes: list[Tensor],
        ids: list[Tensor],
        sizes: list[tuple[int, int]],
        ignore: list[Tensor | None],
    ) -> "Targets":
        """Of boxes (n_i, 4), ids (n_i,), sizes and regions (I_i, 4) of N images, on the host."""
        counts = [len(b) for b in boxes]
        image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor(counts))
        regions = [torch.zeros(0, 4) if r is None else r for r in ignore]
        rois = torch.cat([image[:, None].float(), torch.cat(boxes).float().cpu()], dim=1)
        rows, start = torch.full((len(boxes), max(1, *counts)), len(rois)), 0
        for i, count in enumerate(counts):
            rows[i, :count] = torch.arange(start, start + count)
            start += count
        return cls(
            rois,
            torch.cat(ids),
            rows,
            torch.tensor(sizes, dtype=torch.float32).view(-1, 2),
            torch.nn.utils.rnn.pad_sequence(regions, batch_first=True),
            counts,
            [len(r) for r in regions],
        )

    @property
    def image_index(self) -> Tensor:
        """(n,) int64."""
        return self.rois[:, 0].long()

    @property
    def boxes(self) -> Tensor:
        """(n, 4)."""
        return self.rois[:, 1:]

    def of_images(self) -> tuple[Tensor, ...]:
        """Boxes of each image, (n_i, 4)."""
        return self.boxes.split(self.counts)

    def ignored(self) -> list[Boxes]:
        """Ignore regions of each image, (I_i, 4)."""
        return [Boxes(r[:n]) for r, n in zip(self.ignore, self.ignore_counts, strict=True)]
