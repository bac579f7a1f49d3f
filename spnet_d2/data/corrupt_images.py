"""What to do about images that can't be decoded (``DATALOADER.ON_CORRUPT_IMAGE``)."""

import logging
from collections import Counter

from detectron2.utils import comm

from spnet_d2.data.image_reader import CorruptImageError

__all__ = ["POLICIES", "SKIPPED", "UNREADABLE", "CorruptImageError", "SkipCounter"]

logger = logging.getLogger(__name__)

# Stop, naming the file, or train on the data set's next image instead.
POLICIES = ("stop", "skip")
# Where an input says which files it stands in for.
SKIPPED = "skipped_files"
# What "skip" skips: damaged files, and those that are not there.
UNREADABLE = (CorruptImageError, FileNotFoundError)


class SkipCounter:
    """Counts, in the process that trains, the images that its loader's workers left out."""

    def __init__(self):
        self.files: Counter[str] = Counter()

    def count(self, batch: list[dict]) -> None:
        """Take note of one batch; a warning names every file once."""
        for x in batch:
            for file, reason in x.get(SKIPPED, {}).items():
                if file not in self.files:
                    logger.warning("Left out, %s is trained on instead: %s", x["file_name"], reason)
                self.files[file] += 1

    def report(self) -> None:
        """Log the totals over all processes, which must all call this."""
        gathered = comm.gather(self.files)
        total: Counter[str] = sum(gathered, Counter())
        if total:
            logger.warning(
                "%d training images could not be read and were left out %d times since this "
                "process started: %s. Fetch these files again.",
                len(total),
                total.total(),
                ", ".join(sorted(total)),
            )
