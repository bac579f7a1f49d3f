"""Seconds of repeated work, and the share of each part of a model.

On the CPU, parts are timed in seconds of this process alone, all threads together: other processes
change these little. On GPUs they are seconds between events of the stream, without waiting.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import trange


class Stamps:
    """Points in time, of a CPU or in a GPU's queue of work."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"

    def now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Until everything that was queued is done; then stamps can be compared."""
        if self._cuda:
            torch.cuda.synchronize()

    def seconds(self, start, end) -> float:
        return start.elapsed_time(end) / 1e3 if self._cuda else end - start


@dataclass
class Timing:
    """
    What repetitions of a piece of work took.

    Attributes:
        busy: seconds of the process, or of the GPU.
        wall: seconds on the clock.
        parts: per repetition, seconds of ``busy`` by (phase, part).
    """

    busy: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    parts: list[dict[tuple[str, str], float]] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.busy)

    def over(self, base: "Timing") -> float:
        """
        How many times as long as ``base``, timed in turn with this.

        It is the median of the repetitions' ratios: what both met at a time cancels out.
        """
        return statistics.median(a / b for a, b in zip(self.busy, base.busy, strict=True))

    def part_medians(self) -> dict[tuple[str, str], float]:
        """Median seconds of each part; one that a repetition lacks counts 0 there."""
        keys = dict.fromkeys(key for parts in self.parts for key in parts)
        return {key: statistics.median(p.get(key, 0.0) for p in self.parts) for key in keys}


class PartClock:
    """
    Attributes time to named parts, nested ones not counted twice.

    A part's forward pass is what runs in its :meth:`part` block. Its backward pass begins when the
    gradients of its outputs are there, and lasts until those of another part's are: autograd goes
    back through the graph in the order opposite to the forward pass.
    """

    REST = "rest"

    def __init__(self, device: torch.device):
        self.stamps = Stamps(device)
        self._marks: list[tuple[tuple[str, str], object]] = []
        self._stack = [self.REST]
        self._phase = "forward"

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside belongs to ``name``, unless a part inside claims it."""
        self._stack.append(name)
        self._switch(name)
        try:
            yield
        finally:
            self._stack.pop()
            self._switch(self._stack[-1])

    def phase(self, name: str) -> None:
        """Begin another phase; "forward" is the first."""
        self._phase = name
        self._switch(self._stack[-1])

    def timed(self, name: str, function: Callable) -> Callable:
        """``function`` as a part, forward and backward."""

        def run(*args, **kwargs):
            with self.part(name):
                result = function(*args, **kwargs)
            for tensor in _tensors(result):
                if tensor.grad_fn is not None:
                    tensor.register_hook(lambda _: self._switch(name))
            return result

        return run

    @contextmanager
    def running(self, timing: Timing) -> Iterator[None]:
        """Time what is inside as one repetition of ``timing``."""
        self.stamps.wait()
        self._marks, self._phase = [], "forward"
        wall = time.perf_counter()
        self._switch(self.REST)
        yield
        self._switch(self.REST)
        self.stamps.wait()
        timing.wall.append(time.perf_counter() - wall)
        timing.busy.append(self.stamps.seconds(self._marks[0][1], self._marks[-1][1]))
        parts: dict[tuple[str, str], float] = {}
        for (key, start), (_, end) in zip(self._marks, self._marks[1:]):
            parts[key] = parts.get(key, 0.0) + self.stamps.seconds(start, end)
        timing.parts.append(parts)

    def _switch(self, name: str) -> None:
        self._marks.append(((self._phase, name), self.stamps.now()))


def measure(
    works: dict[str, Callable[[], None]], clock: PartClock, repetitions: int, warm_up: int
) -> dict[str, Timing]:
    """Time each work in turn, again and again; the first ``warm_up`` turns do not count."""
    timings = {name: Timing() for name in works}
    for turn in trange(warm_up + repetitions, desc="benchmark", disable=None):
        for name, work in works.items():
            with clock.running(timings[name] if turn >= warm_up else Timing()):
                work()
    return timings


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
