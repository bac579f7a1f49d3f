"""Checkpoints against a crash, between those that are kept."""

from pathlib import Path

from detectron2.engine import hooks


class Backups(hooks.PeriodicCheckpointer):
    """
    Keeps the newest two of frequent checkpoints, ``backup_*.pth``, while a run goes on.

    The kept checkpoints of a long run are hours apart. ``--resume`` takes the newest file, of
    either kind. Must come after the hook that saves those to keep.
    """

    KEPT = 2

    def __init__(self, checkpointer, period: int, kept_period: int):
        """
        Args:
            checkpointer: of the main process.
            period: iterations between backups.
            kept_period: iterations between checkpoints that are kept; no backup is made there.
        """
        super().__init__(checkpointer, period, max_to_keep=self.KEPT, file_prefix="backup")
        self._kept_period = kept_period

    def before_train(self) -> None:
        # Those of the run that is resumed are thinned out, too.
        folder = Path(self.checkpointer.save_dir)
        self.recent_checkpoints = sorted(map(str, folder.glob("backup_*.pth")))

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter:
            for file in self.recent_checkpoints:
                Path(file).unlink(missing_ok=True)
        elif done % self._kept_period:
            self.step(self.trainer.iter)
