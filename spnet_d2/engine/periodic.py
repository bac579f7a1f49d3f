"""Hooks that act before others save or evaluate."""

from abc import abstractmethod

from detectron2.engine import HookBase


class PeriodicHook(HookBase):
    """
    Acts after iterations at which others save or evaluate, and after the last one.

    Must come before these hooks, on all processes: only the main one saves.
    """

    def __init__(self, *periods: int):
        """
        Args:
            periods: of what it comes before, in iterations; 0: only at the end.
        """
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self.act()

    @abstractmethod
    def act(self) -> None:
        """What has to be done then, by all processes."""
