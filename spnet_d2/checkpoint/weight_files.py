"""Weight files of backbones: reading them, and finding the network that is meant inside."""

import os
from collections.abc import Mapping

from torch import Tensor

from .files import read_checkpoint
from .pretrained import missing_file


def read_weights(path: str) -> dict:
    """
    Read a weight file (``torch.save`` or safetensors).

    Raises:
        PretrainedWeightsError: no such file.
        ValueError: it can't be read, or holds other objects than tensors and plain values.
    """
    if not os.path.isfile(path):
        raise missing_file(path)
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return read_checkpoint(path)


_WRAPPERS = ("state_dict", "model", "teacher")
_PREFIXES = ("module.", "encoder_q.", "base_encoder.", "backbone.", "model.")


def unwrap(state: Mapping) -> dict[str, Tensor]:
    """
    Tensors of the network that is meant, without wrappers around names.

    Checkpoints of self-supervised training hold several networks: the query encoder of MoCo and
    the teacher of DINO are taken.
    """
    while inner := [state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)]:
        state = inner[0]
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state
