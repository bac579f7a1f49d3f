"""Training and test loaders; neither draws from a global random number generator."""

import logging
from collections.abc import Iterable

import cv2
import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from spnet_d2.data.catalog import get_dicts, get_training_dicts
from spnet_d2.data.corrupt_images import SKIPPED, UNREADABLE, CorruptImageError
from spnet_d2.data.mapper import PersonSearchMapper
from spnet_d2.data.pair_batches import PairBatchSampler
from spnet_d2.data.samplers import EpochBatchSampler, Slot, batches_per_epoch
from spnet_d2.data.self_supervised_boxes import RandomBoxes, build_random_boxes

logger = logging.getLogger(__name__)
# Of a test set whose losses are computed, as in the authors' code.
LOSS_IMS_PER_BATCH = 6


class _TrainDataset(Dataset):
    """Indexed by a slot of the sampler, so workers carry no random state."""

    def __init__(
        self,
        dicts: list[dict],
        mapper,
        random_boxes: RandomBoxes | None = None,
        skip_corrupt: bool = False,
    ):
        # Serialised, or every worker would copy all annotations as reference counts change.
        self.dicts = DatasetFromList(dicts, copy=False)
        self.mapper = mapper
        self.random_boxes = random_boxes
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, slot: Slot) -> dict:
        skipped: dict[str, str] = {}
        # The data set's next image replaces a corrupt one: still a function of the slot alone.
        for step in range(len(self.dicts)):
            index = (slot.index + step) % len(self.dicts)
            try:
                result = self._view(index, slot)
            except UNREADABLE as error:
                if not self.skip_corrupt:
                    raise
                skipped[self.dicts[index]["file_name"]] = str(error)
            else:
                return {**result, SKIPPED: skipped} if skipped else result
        raise CorruptImageError(
            f"None of the {len(self.dicts)} training images can be read. {min(skipped.values())}"
        )

    def _view(self, index: int, slot: Slot) -> dict:
        record = self.dicts[index]
        if self.random_boxes:
            record = self.random_boxes(record, index, slot.epoch)
        return self.mapper(record, np.random.default_rng(slot.seed))


class _TestDataset(Dataset):
    """Every image once; one that can't be read is black, so that metrics are over all images."""

    def __init__(self, dicts: list[dict], mapper, skip_corrupt: bool = False):
        self.dicts = DatasetFromList(dicts, copy=False)
        self.mapper = mapper
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> dict:
        record = self.dicts[index]
        try:
            return self.mapper(record)
        except UNREADABLE as error:
            if not (self.skip_corrupt and {"height", "width"} <= record.keys()):
                raise
            black = np.zeros((record["height"], record["width"], 3), np.uint8)
            result = self.mapper(record, image=black)
            return {**result, SKIPPED: {record["file_name"]: str(error)}}


def build_train_loader(cfg, start_iter: int = 0) -> DataLoader:
    """Endless loader of ``DATASETS.TRAIN``; each batch is this process's list of dicts.

    The sequence is a function of ``SEED`` and the iteration only. With a negative ``SEED`` one is
    drawn, and a resumed run does not continue the interrupted one's order.

    Args:
        start_iter: iteration to start at, to continue an interrupted run.

    Raises:
        CorruptImageError: when iterated over, at an image that can't be read. With
            ``DATALOADER.ON_CORRUPT_IMAGE`` "skip" the data set's next one takes its place, and its
            dict names those it stands in for (:data:`~spnet_d2.data.corrupt_images.SKIPPED`).
    """
    dicts = _training_dicts(cfg)
    warn_of_nobody(cfg, dicts)
    world_size, rank = comm.get_world_size(), comm.get_rank()
    seed = cfg.SEED if cfg.SEED >= 0 else _drawn_seed()
    sampler = EpochBatchSampler(
        len(dicts),
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.DATALOADER.VIEWS_PER_IMAGE,
        seed=seed,
        rank=rank,
        world_size=world_size,
        start_iter=start_iter,
    )
    logger.info(
        "%d training images, %d iterations per epoch", len(dicts), sampler.batches_per_epoch
    )
    return _loader_of(cfg, dicts, sampler, build_random_boxes(cfg, len(dicts), seed))


def build_test_loader(cfg, dataset_name: str, batch_size: int = 1) -> DataLoader:
    """Loader of one pass over a data set in ascending image id, ground-truth boxes included.

    Each process gets a contiguous part. Results do not depend on ``batch_size``.

    Raises:
        CorruptImageError, FileNotFoundError: when iterated over, at an image that can't be read.
            With ``DATALOADER.ON_CORRUPT_IMAGE`` "skip" it is black, and its dict says so
            (:data:`~spnet_d2.data.corrupt_images.SKIPPED`): evaluators count its people as not
            found.
    """
    dicts = get_dicts(dataset_name)
    return DataLoader(
        _TestDataset(
            dicts,
            PersonSearchMapper(cfg, is_train=False),
            skip_corrupt=cfg.DATALOADER.ON_CORRUPT_IMAGE == "skip",
        ),
        batch_size=batch_size,
        sampler=InferenceSampler(len(dicts)),
        **_worker_settings(cfg.DATALOADER.NUM_WORKERS),
    )


def build_loss_loader(cfg, dataset_name: str) -> DataLoader:
    """Loader of one pass over a test set for its losses: pairs of images, seen as in training.

    Images are resized only. The batches are the same every time; each process gets
    its share of them.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.AUG_TRAIN = "wrs"
    dicts = get_dicts(dataset_name)
    sampler = PairBatchSampler(
        dicts,
        LOSS_IMS_PER_BATCH,
        seed=max(cfg.SEED, 0),
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    return _loader_of(cfg, dicts, sampler)


def _loader_of(
    cfg, dicts: list[dict], sampler: Iterable[list[Slot]], random_boxes: RandomBoxes | None = None
) -> DataLoader:
    """Of training's views of images, in the sampler's batches."""
    return DataLoader(
        _TrainDataset(
            dicts,
            PersonSearchMapper(cfg, is_train=True),
            random_boxes,
            skip_corrupt=cfg.DATALOADER.ON_CORRUPT_IMAGE == "skip",
        ),
        batch_sampler=sampler,
        **_worker_settings(cfg.DATALOADER.NUM_WORKERS),
    )


def warn_of_nobody(cfg, dicts: list[dict]) -> None:
    """Say that nothing can be learned from training sets without boxes."""
    if not any(image["annotations"] for image in dicts) and not cfg.INPUT.SSL_BOXES:
        logger.warning(
            "%s: none of the %d training images has a box, so that nothing but background is "
            "learned. Check the annotations.",
            ", ".join(cfg.DATASETS.TRAIN),
            len(dicts),
        )


def iterations_per_epoch(cfg) -> int:
    """Iterations in which every training image is shown ``VIEWS_PER_IMAGE`` times.

    Raises:
        ValueError: if they do not fill a batch, or a batch can't be parted.
    """
    return batches_per_epoch(
        len(_training_dicts(cfg)),
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.DATALOADER.VIEWS_PER_IMAGE,
        comm.get_world_size(),
    )


def _training_dicts(cfg) -> list[dict]:
    dicts = get_training_dicts(cfg.DATASETS.TRAIN)
    # With random boxes no image is empty.
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and not cfg.INPUT.SSL_BOXES:
        dicts = [entry for entry in dicts if entry["annotations"]]
    return dicts


def _drawn_seed() -> int:
    """The same fresh seed on all ranks, drawn from the system's entropy."""
    return comm.all_gather(int(np.random.SeedSequence().generate_state(1)[0]) % 2**31)[0]


def _worker_settings(num_workers: int) -> dict:
    # A generator of its own: the DataLoader draws its workers' base seed from it.
    generator = torch.Generator()
    generator.manual_seed(0)
    return {
        "num_workers": num_workers,
        "collate_fn": _as_list,
        "generator": generator,
        "worker_init_fn": _start_worker,
    }


def _as_list(batch: list[dict]) -> list[dict]:
    return batch


def _start_worker(worker_id: int) -> None:
    # Workers are the parallelism; threads of each would only fight for the same cores.
    cv2.setNumThreads(0)
