"""Detectron2's config node, with epochs beside iterations and with keys that were renamed.

``SOLVER.EPOCHS`` and ``SOLVER.MAX_ITER`` say the same thing. Whichever a user names counts,
wherever it is named: in a file (before what its ``_BASE_`` names), on the command line, or in
code, as in ``cfg.SOLVER.MAX_ITER = 300``. The other one becomes 0.
"""

import ast
import copy
import logging
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import yaml
from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

# Key in iterations -> the key in epochs that sets it where it is more than 0.
EPOCH_KEYS = {
    "SOLVER.MAX_ITER": "SOLVER.EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD": "SOLVER.CHECKPOINT_EPOCHS",
    "TEST.EVAL_PERIOD": "TEST.EVAL_EPOCHS",
}
# A text that is one name, whatever it names.
_NAME = r"[^\s,()\[\]'\"]+"
_SECTIONS = ("SOLVER", "TEST")
# The same within their section.
_PAIRS = [
    (iterations.partition(".")[2], epochs.partition(".")[2])
    for iterations, epochs in EPOCH_KEYS.items()
]

# Earlier name -> the key that takes its place.
RENAMED_KEYS = {
    "MODEL.SPNET.TEST.SCORE_THRESH": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.SPNET.TEST.NMS_THRESH": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.SPNET.TEST.DETECTIONS_PER_IMAGE": "TEST.DETECTIONS_PER_IMAGE",
    "MODEL.SPNET.ANCHOR_BIAS": "MODEL.SPNET.SMALL_DATA.ANCHOR_BIAS",
    "MODEL.SPNET.BOX_LOSS_WEIGHT": "MODEL.SPNET.SMALL_DATA.BOX_LOSS_WEIGHT",
    "MODEL.SPNET.BACKBONE.FPN_INIT": "MODEL.SPNET.SMALL_DATA.FPN_INIT",
    "MODEL.SPNET.BACKBONE.ROI_POOLING": "MODEL.SPNET.SMALL_DATA.ROI_POOLING",
    "MODEL.SPNET.BACKBONE.ROI_STRIPES": "MODEL.SPNET.SMALL_DATA.ROI_STRIPES",
    "MODEL.SPNET.BACKBONE.ROI_MARGIN": "MODEL.SPNET.SMALL_DATA.ROI_MARGIN",
    "MODEL.SPNET.BACKBONE.FREEZE_ROI_STAGE": "MODEL.SPNET.SMALL_DATA.FREEZE_ROI",
    "MODEL.SPNET.BACKBONE.FREEZE_P3": "MODEL.SPNET.SMALL_DATA.FREEZE_ROI",
    "MODEL.SPNET.SMALL_DATA.FREEZE_ROI_STAGE": "MODEL.SPNET.SMALL_DATA.FREEZE_ROI",
    "MODEL.SPNET.SMALL_DATA.FREEZE_P3": "MODEL.SPNET.SMALL_DATA.FREEZE_ROI",
    "MODEL.SPNET.REID.FEAT4_SHARE": "MODEL.SPNET.SMALL_DATA.FEAT4_SHARE",
    "MODEL.SPNET.REID.BOX_JITTER": "MODEL.SPNET.SMALL_DATA.BOX_JITTER",
}
# A key that is no longer there -> the constant in its place; None: it had one legal value.
REMOVED_KEYS: dict[str, Any] = {
    "MODEL.SPNET.BACKBONE.FPN_CHANNELS": None,
    "MODEL.SPNET.ANCHOR_LOSS_WEIGHT": 1.0,
    "MODEL.SPNET.FOCAL_ALPHA": 0.5,
    "MODEL.SPNET.FOCAL_GAMMA": 1.0,
    "MODEL.SPNET.LWF.LOSS_WEIGHT": 1.0,
    "MODEL.SPNET.LWF.TEMPERATURE": 2.0,
    "MODEL.SPNET.REID.IOU_THRESH": 0.7,
    "MODEL.SPNET.REID.MOMENTUM": 0.5,
    "MODEL.SPNET.BRIDGE": "combiner",
    "MODEL.SPNET.INIT.FROM_TWIN": False,
    "MODEL.SPNET.QC.MATCH_CONSERVATIVE": False,
    "MODEL.SPNET.TEST.PRE_TOPK": 1000,
    "MODEL.SPNET.TEST.QUERY_TOPK": 100,
    "MODEL.SPNET.TEST.TOPK_CANDIDATES": 300,
    # It changed no result.
    "MODEL.SPNET.TEST.QUERIES_PER_CHUNK": None,
    "INPUT.RFC_PROB": 1.0,
    "INPUT.RSC_EROSION": 0.1,
    "INPUT.SSL_NUM_BOXES": 10,
    "INPUT.SSL_DISTINCTIVE": False,
    "TEST.LOSS_AUG": "wrs",
    "TEST.LOSS_IMS_PER_BATCH": 6,
}
# What says it now, where its constant isn't wanted.
_SAID_BY = {
    "INPUT.SSL_DISTINCTIVE": "INPUT.SSL_BOXES distinctive does what True did",
    "INPUT.RFC_PROB": "INPUT.RSC_PROB is RSC's odds against 1",
}


class ConfigNode(CfgNode):
    """
    A config, or its section ``SOLVER`` or ``TEST``.

    A file that names both keys of a pair, as the ``config.yaml`` of a run does, keeps both: the
    epochs count unless they are 0, and
    :func:`~spnet_d2.engine.schedule.resolve_schedule` says so if the iterations differ.
    """

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """A file's content, earlier names translated, on top of that of its ``_BASE_``."""
        loaded = super().load_yaml_with_base(filename, allow_unsafe=allow_unsafe)
        if not isinstance(loaded, dict):
            return loaded
        # BaseLoader makes nothing but strings, lists and dicts, whatever the file's tags say.
        with cls._open_cfg(filename) as file:
            own = yaml.load(file, Loader=yaml.BaseLoader)
        for section in _SECTIONS:
            _settle(loaded.get(section), own.get(section))
        warn_of_renamed(_rename(loaded))
        return loaded

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        cfg_other = copy.deepcopy(cfg_other)
        for key, constant in REMOVED_KEYS.items():
            _refuse_other_value(key, _at(cfg_other, key, constant))
        _wrap_single_values(cfg_other, self)
        # yacs takes nodes of one class only for each other's.
        set_node_class(self, CfgNode)
        try:
            self.merge_from_other_cfg(cfg_other)
        finally:
            set_node_class(self, ConfigNode)
        for section in _SECTIONS:
            _settle(self.get(section), cfg_other.get(section))

    def merge_from_list(self, cfg_list: list) -> None:
        """KEY VALUE after KEY VALUE; of two keys of a pair, the later one counts."""
        for start in range(0, len(cfg_list), 2):
            key, *value = cfg_list[start : start + 2]
            if key in REMOVED_KEYS and value:
                _refuse_other_value(key, value[0])
            super().merge_from_list([key, *(_wrapped(v, self, key) for v in value)])
            section, _, name = key.partition(".")
            _settle(self.get(section), {name: None})

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        _settle(self, {name: None})


def set_node_class(cfg: CfgNode, kind: type[CfgNode]) -> None:
    """Make a config, and its sections ``SOLVER`` and ``TEST``, nodes of another class."""
    for node in (cfg, *(cfg[section] for section in _SECTIONS if section in cfg)):
        # A node's own __setattr__ takes keys only.
        object.__setattr__(node, "__class__", kind)


def warn_of_renamed(names: Iterable[str]) -> None:
    """One warning that names keys which were given by an earlier name."""
    if names := list(names):
        told = "; ".join(f"{name} is now {RENAMED_KEYS[name]}" for name in names)
        logger.warning("Keys given by an earlier name were taken: %s.", told)


def _wrap_single_values(node: MutableMapping, known: CfgNode, prefix: str = "") -> None:
    for name, value in node.items():
        if isinstance(value, MutableMapping):
            if isinstance(known.get(name), Mapping):
                _wrap_single_values(value, known[name], f"{prefix}{name}.")
        elif name in known:
            node[name] = _wrap(value, known[name], prefix + name)


def _refuse_other_value(key: str, value: Any) -> None:
    """A key that is no longer there may only say what is done anyway."""
    constant = REMOVED_KEYS[key]
    if constant is not None and _literal(value) != constant:
        said = f" {_SAID_BY[key]}." if key in _SAID_BY else ""
        raise ValueError(
            f"{key} is {value!r}, but it is no longer a setting: it is always {constant!r}, as in "
            f"the authors' code. Leave it out.{said}"
        )


def _at(node: Any, key: str, default: Any = None) -> Any:
    """The value of a dotted key of nested dicts, if it is there."""
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return default
        node = node[name]
    return node


def _wrapped(value: Any, cfg: CfgNode, key: str) -> Any:
    """The value for a dotted key of a config, see :func:`_wrap`."""
    return _wrap(value, _at(cfg, key), key)


def _wrap(value: Any, known: Any, key: str) -> Any:
    """
    A tuple of one where a key holds tuples and its value is a single name or number.

    ``('x')``, without the comma that makes a tuple, is the same as ``x``.
    """
    decoded = _literal(value)
    if not isinstance(known, tuple) or isinstance(decoded, bool | list | tuple):
        return value
    if not isinstance(decoded, str):
        numbers = len(known) == 1 and isinstance(known[0], int | float)
        return (decoded,) if numbers and isinstance(decoded, int | float) else value
    # Several without quotes, or without brackets: which, isn't clear.
    if not re.fullmatch(_NAME, decoded):
        names = re.findall(_NAME, decoded) or ["NAME"]
        raise ValueError(
            f"{key} is {value!r}, expected a tuple, such as {(*names,)}; () is an empty one."
        )
    return (decoded,)


def _literal(value: Any) -> Any:
    """What a text of the command line or a file stands for, as yacs reads it."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError):
        return value


def _settle(section: Any, named: Any) -> None:
    """Of each pair of a section, set the key to 0 that was not named while the other one was."""
    if not isinstance(section, MutableMapping) or not isinstance(named, Mapping):
        return
    for iterations, epochs in _PAIRS:
        if iterations in named and epochs not in named:
            section[epochs] = 0
        elif epochs in named and iterations not in named and section.get(epochs):
            section[iterations] = 0


def _rename(content: dict) -> list[str]:
    """Give the values of earlier names to those that take their place; the names found."""
    found: dict[str, str] = {}
    for old, new in RENAMED_KEYS.items():
        *sections, name = old.split(".")
        place = _at(content, ".".join(sections))
        if not isinstance(place, dict) or name not in place:
            continue
        value = place.pop(name)
        if new in found.values() and _at(content, new) != value:
            others = [earlier for earlier, now in found.items() if now == new]
            raise ValueError(
                f"{old} is {value!r}, but {', '.join(others)} {_at(content, new)!r}: both are now "
                f"{new}. Set that one instead."
            )
        found[old] = new
        *sections, name = new.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return list(found)
