"""Checkpoints that survive a crash while they are written, and that are read without pickle."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import Tensor, nn

from spnet_d2.checkpoint.files import (
    DamagedCheckpointError,
    check_plain,
    find_damage,
    read_checkpoint,
)
from spnet_d2.checkpoint.llnl import convert_state_dict, is_llnl
from spnet_d2.checkpoint.seqnet import architecture_of
from spnet_d2.checkpoint.seqnet import convert_state_dict as convert_seqnet
from spnet_d2.checkpoint.transfer import (
    TransferError,
    apply_plan,
    check_exact,
    check_served,
    plan_serving,
    plan_start,
)
from spnet_d2.checkpoint.untrained import UntrainedModelError
from spnet_d2.utils.atomic_io import atomic_path

logger = logging.getLogger(__name__)

# Formats of other projects that are pickles: reading one runs whatever code it contains.
_PICKLES = (".pkl", ".pyth")
# Checkpoints that a run can continue from, with their iteration: those to keep, and backups.
_NUMBERED = re.compile(r"(?:model|backup)_(\d+)")


@runtime_checkable
class OneBlock(Protocol):
    """A model whose weights are taken as a whole: SPNet's parts can be started apart."""

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """All tensors of the model, but those of training's memory; an error if any is lacking."""


class Checkpointer(DetectionCheckpointer):
    """
    Detectron2's checkpointer, with safe files, clear errors and three ways to load.

    - A file appears under its name only when it is complete, and ``last_checkpoint`` names it
      only after that, so a crash or a full disk never costs the previous checkpoint.
    - Files hold tensors and plain values only and are read with ``torch.load(weights_only=True)``,
      after a look at their checksums. Checkpoints of the authors' code are recognised and renamed.
    - Resuming passes over a damaged last checkpoint, with a warning, and takes the one before.
    - :meth:`load` takes a checkpoint of exactly this model, as resuming needs it;
      :meth:`start_from` starts a new run from the weights of any SPNet; :meth:`load_to_serve`
      loads what is going to detect. An error leaves the model as it was.

    ``save_dir`` is a local folder.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cascade: str = "PT-Rep",
        **kwargs: Any,
    ):
        """
        Args:
            model: to load and save.
            save_dir: where to save.
            cascade: how :meth:`start_from` starts, see ``MODEL.SPNET.INIT``.
            kwargs: of Detectron2's checkpointer: ``save_to_disk`` and what else to save.
        """
        super().__init__(model, save_dir, **kwargs)
        self.cascade = cascade
        # How weights that were read get into the model.
        self._place: Callable[[dict[str, Tensor]], None] = self._place_exactly

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Write ``save_dir/name.pth`` and make it the last checkpoint.

        Args:
            name: file name without ending.
            kwargs: more to store, beside the model and the checkpointables.

        Raises:
            OSError: it could not be written; earlier files are untouched.
            TypeError: there is something in it that could not be read again.
        """
        path = self.save_aside(name, **kwargs)
        if path is not None:
            with _disk_errors(path):
                self.tag_last_checkpoint(path.name)

    def save_aside(self, name: str, **kwargs: Any) -> Path | None:
        """
        As :meth:`save`, but the last checkpoint stays what it is.

        Returns:
            The file; None where this process saves nothing.
        """
        if not self.save_dir or not self.save_to_disk:
            return None
        data = {"model": self.model.state_dict()}
        data.update((key, obj.state_dict()) for key, obj in self.checkpointables.items())
        data.update(kwargs)
        check_plain(data)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        with (
            _disk_errors(path),
            atomic_path(path, durable=True) as part,
            open(part, "wb") as file,
        ):
            torch.save(data, file)
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of ``save_dir`` the one that ``--resume`` continues from."""
        path = Path(self.save_dir) / "last_checkpoint"
        with atomic_path(path, durable=True) as part:
            part.write_bytes(last_filename_basename.encode())

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        Load a checkpoint of exactly this model, and the checkpointables unless told otherwise.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a complete PyTorch checkpoint of plain data, or
                (:class:`~spnet_d2.checkpoint.transfer.TransferError`) one of another model.
        """
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, OSError) as error:
            if path and not self.path_manager.exists(str(path).partition("?")[0]):
                raise FileNotFoundError(self._missing(str(path))) from error
            raise
        except (TransferError, UntrainedModelError) as error:
            raise type(error)(f"{path}: {error}") from error
        finally:
            # Detectron2 leaves it set after an error and then refuses to load anything else.
            self._parsed_url_during_load = None

    def start_from(self, path: str) -> dict[str, Any]:
        """
        Start a new run from the weights of any SPNet, and log what becomes of them.

        Args:
            path: a checkpoint of ours or of the authors'; empty: nothing is loaded.

        Returns:
            What the checkpoint holds beside the model.

        Raises:
            FileNotFoundError, ValueError: as :meth:`load`; only trunk, FPN width and embedding
                size have to be this model's.
        """
        with self._placing(self._place_for_start):
            return self.load(path, checkpointables=[])

    def load_to_serve(
        self, path: str, *, resume: bool = False, allow_untrained: bool = False
    ) -> dict[str, Any]:
        """
        Load a model that is going to detect.

        Args:
            path: a checkpoint of ours or of the authors'.
            resume: take the last checkpoint of ``save_dir`` instead, if there is one.
            allow_untrained: accept parts without trained weights.

        Returns:
            What the checkpoint holds beside the model.

        Raises:
            UntrainedModelError: there is no path, or the checkpoint lacks weights that detections
                depend on.
            FileNotFoundError, ValueError: as :meth:`start_from`.
        """
        if resume and self.has_checkpoint():
            path = self.get_checkpoint_file()
        if not path and not allow_untrained:
            tried = f" and {self.save_dir} has no checkpoint" if resume else ""
            raise UntrainedModelError(
                f"No weights to detect with: MODEL.WEIGHTS is empty{tried}, so the model is "
                "untrained. Set MODEL.WEIGHTS to a checkpoint."
            )
        with self._placing(partial(self._place_to_serve, allow_untrained)):
            return self.load(path, checkpointables=[])

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """
        Continue exactly from the last checkpoint if told so and there is one, else start anew.

        Args:
            path: for :meth:`start_from`.
            resume: look for a last checkpoint. If it is damaged, the one before it serves.

        Raises:
            DamagedCheckpointError: all checkpoints are damaged.
            FileNotFoundError, ValueError: as :meth:`load` and :meth:`start_from`. Also if not all
                processes see the main one's checkpoint.
        """
        if resume:
            # One process looks, so that all continue from the same file.
            looks = comm.is_main_process() and self.has_checkpoint()
            last = comm.all_gather(self._last_sound() if looks else None)[0]
            if last:
                self._check_shared(last)
                return self.load(last)
        return self.start_from(path)

    @staticmethod
    def _check_shared(path: str) -> None:
        found = comm.all_gather(os.path.isfile(path))
        blind = [str(rank) for rank, there in enumerate(found) if not there]
        # Where there is none anywhere, loading says more.
        if found[0] and blind:
            raise FileNotFoundError(
                f"The main process continues from {path}, but processes {', '.join(blind)} have no "
                "such file. Set OUTPUT_DIR to a folder that all machines share."
            )

    def _last_sound(self) -> str:
        """The last checkpoint, or the latest before it that is not damaged."""
        last = self.get_checkpoint_file()
        if not os.path.isfile(last):
            return last
        damages: dict[Path, str] = {}
        for path in [Path(last), *self._before(last)]:
            damage = find_damage(path)
            if damage is None:
                for name, reason in damages.items():
                    logger.warning("The checkpoint %s %s: it is passed over.", name, reason)
                if damages:
                    logger.warning("Continuing from the checkpoint before, %s.", path)
                return str(path)
            damages[path] = damage
        found = "; ".join(f"{path} {damage}" for path, damage in damages.items())
        raise DamagedCheckpointError(
            f"There is no checkpoint to continue from: {found}. Put a copy of one in its place, or "
            f"remove {Path(self.save_dir) / 'last_checkpoint'} to start from the beginning."
        )

    @staticmethod
    def _before(last: str) -> list[Path]:
        """Checkpoints and backups of earlier iterations than ``last``, the latest first."""
        number = _NUMBERED.fullmatch(Path(last).stem)
        limit = int(number[1]) if number else float("inf")
        earlier = []
        for path in Path(last).parent.glob("*.pth"):
            number = _NUMBERED.fullmatch(path.stem)
            if number and int(number[1]) < limit:
                earlier.append(path)
        # By time: the folder may have checkpoints of an older run, with larger numbers.
        return sorted(earlier, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    @contextlib.contextmanager
    def _placing(self, place) -> Iterator[None]:
        self._place = place
        try:
            yield
        finally:
            self._place = self._place_exactly

    def _load_model(self, checkpoint: Any) -> None:
        state = _named(checkpoint.pop("model"))
        # Files of other projects, too, so that an error can name what is in them.
        state = _named(state.get("state_dict", state))
        if is_llnl(state):
            state = convert_state_dict(state)
        elif architecture_of(state):
            state = convert_seqnet(state)
        else:
            state = {k.removeprefix("module."): v for k, v in state.items()}
        tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        _check_numbers(tensors, self.model.state_dict())
        self._place(tensors)

    def _place_exactly(self, state: dict[str, Tensor]) -> None:
        check_exact(state, self.model.state_dict())
        self.model.load_state_dict(state)

    def _place_for_start(self, state: dict[str, Tensor]) -> None:
        if isinstance(self.model, OneBlock):
            return self.model.load_weights(state)
        plan = plan_start(state, self.model.state_dict(), self.cascade)
        logger.info("Weights of the new run (%s):\n%s", plan.count(), plan.table())
        apply_plan(plan, state, self.model)

    def _place_to_serve(self, allow_untrained: bool, state: dict[str, Tensor]) -> None:
        if isinstance(self.model, OneBlock):
            return self.model.load_weights(state)
        plan = plan_serving(state, self.model.state_dict())
        if not allow_untrained:
            check_served(plan, self.model)
        unused = plan.unused()
        if unused:
            logger.warning("The config's model has no %s: not loaded.", ", ".join(unused))
        apply_plan(plan, state, self.model)
        if allow_untrained:
            self.model.untrained = ()

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(_PICKLES):
            raise ValueError(
                f"{filename} is a pickle of another project. Expected a PyTorch checkpoint (.pth) "
                "with weights under this model's names."
            )
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> dict[str, Any]:
        try:
            content = read_checkpoint(f)
        except ValueError as error:
            raise type(error)(f"{error} {self._others(f)}") from error
        # Detectron2 looks for "model" in whatever was saved; in a tensor or number it can't.
        return dict(content) if isinstance(content, Mapping) else {"model": content}

    def _missing(self, path: str) -> str:
        tag = Path(self.save_dir) / "last_checkpoint"
        if self.save_dir and Path(path).parent == tag.parent and tag.is_file():
            return (
                f"{tag} names a checkpoint that is not there: {path}. {self._others(path)} Write "
                f"the name of one into {tag}, or remove that file to start from the beginning."
            )
        return f"No checkpoint at {os.path.abspath(path)}. Check MODEL.WEIGHTS."

    def _others(self, path: str) -> str:
        folder = Path(path).parent
        names = sorted(p.name for p in folder.glob("*.pth") if p != Path(path))
        return f"Other checkpoints in {folder}: {', '.join(names) or 'none'}."


def _named(state: Any) -> Mapping[str, Any]:
    """The argument, if it is what weights are stored in."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise TransferError(
            "This is no SPNet checkpoint: expected weights by name, found "
            f"{type(state).__name__}{' with other keys' if isinstance(state, Mapping) else ''}."
        )
    return state


def _check_numbers(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Refuse weights that no model could compute with, before any is loaded."""
    for name, tensor in state.items():
        # Meta tensors have no numbers; sparse and quantised ones aren't copied into plain ones.
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
            kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
            raise TransferError(
                f"{name} is a {'quantised' if tensor.is_quantized else kind} tensor; expected "
                "plain numbers. Save the state_dict of a model in float32."
            )
        wanted = target.get(name)
        if wanted is not None and wanted.is_floating_point() != tensor.is_floating_point():
            raise TransferError(f"{name} is {tensor.dtype}; expected {wanted.dtype} or similar.")
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise TransferError(
            f"{len(broken)} of {len(state)} tensors have NaN or infinite numbers, first "
            f"{broken[0]}: that training diverged. Take an earlier checkpoint."
        )


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say what a checkpoint that can't be written means."""
    try:
        yield
    # PyTorch's writer hides a full disk behind a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"Could not write the checkpoint {path}: {error}. "
            f"{shutil.disk_usage(path.parent).free / 2**30:.2f} GiB are free there. Earlier "
            "checkpoints are untouched: make room and continue with --resume."
        ) from error
