"""Checkpoints that survive a crash while they are written, and that are read without pickle."""

import os
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

# Formats of other projects that are pickles: reading one runs whatever code it contains.
_PICKLES = (".pkl", ".pyth")


class Checkpointer(DetectionCheckpointer):
    """
    Detectron2's checkpointer, with safe files and clear errors.

    - A file appears under its name only when it is complete, and ``last_checkpoint`` names it
      only after that, so a crash or a full disk never costs the previous checkpoint.
    - Files are read with ``torch.load(weights_only=True)``.

    ``save_dir`` is a local folder.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Write ``save_dir/name.pth`` and make it the last checkpoint.

        Args:
            name: file name without ending.
            kwargs: more to store, beside the model and the checkpointables.

        Raises:
            OSError, RuntimeError: it could not be written; earlier files are untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update((key, obj.state_dict()) for key, obj in self.checkpointables.items())
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        _replace(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of ``save_dir`` the one that ``--resume`` continues from."""
        path = Path(self.save_dir) / "last_checkpoint"
        _replace(path, lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        Load the model, and the checkpointables unless told otherwise.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a complete PyTorch checkpoint of plain data.
        """
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, OSError) as error:
            if path and not self.path_manager.exists(str(path).partition("?")[0]):
                raise FileNotFoundError(self._missing(str(path))) from error
            raise
        finally:
            # Detectron2 leaves it set after an error and then refuses to load anything else.
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(_PICKLES):
            raise ValueError(
                f"{filename} is a pickle of another project. Expected a PyTorch checkpoint (.pth) "
                "with weights under this model's names."
            )
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> dict[str, Any]:
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        # Broken files raise almost anything, by where they are broken.
        except Exception as error:
            raise ValueError(
                f"{f} ({os.path.getsize(f)} bytes) can't be read as a PyTorch checkpoint of plain "
                f"tensors and numbers. It may be cut off, or of another kind. {self._others(f)}"
            ) from error

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


def _replace(path: Path, write) -> None:
    """Write a file under another name in the same folder, then move it into place at once."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
