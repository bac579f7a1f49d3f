"""Weights of one SPNet in another: query-centric to object-centric, small heads to large ones.

A plan says for every part of the model where its weights come from; it is made from names and
shapes alone, can be shown as a table, and is then applied at once. Rules and their order follow
the authors' code (``ckpt_load_share``, ``ckpt_load_cascade``; paper section 4 and Figure 8):

- trunk, FPN, anchor embedder, first box head and the re-id stage copy have to be the same;
- bridges are copied; a query-centric checkpoint has none, or zeros, which is where they start;
- shared heads give separate ones the stage copies; re-id projectors start anew then, and where
  the re-id size differs;
- cascade stages that the checkpoint lacks are replicated from the first one ("PT-Rep") or keep
  their own start ("PT");
- re-id memory, momentum encoder and the teacher of learning without forgetting belong to one run:
  a new one starts with an empty memory and with a twin equal to the student.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from tabulate import tabulate
from torch import Tensor, nn

from spnet_d2.checkpoint.untrained import refuse_untrained, serves
from spnet_d2.errors import UserError

CASCADES = ("PT-Rep", "PT")


class TransferError(UserError, ValueError):
    """A checkpoint that does not fit; the message names tensors and shapes. Nothing was loaded."""


class Part(NamedTuple):
    """A group of tensors that is treated as one: a kind and, where there are several, a stage."""

    kind: str
    stage: int | None = None


# Start of names -> kind and stage. A number is added to the index in the name, if there is one;
# None: the kind has no stages. What follows is the name within the part.
_PARTS: tuple[tuple[str, str, int | None], ...] = (
    (r"backbone\.trunk\.", "trunk", None),
    (r"backbone\.fpn\.", "FPN", None),
    (r"proposal_generator\.anchor_embedder\.", "anchor embedder", None),
    (r"proposal_generator\.anchor_logits\.", "anchor logits", None),
    (r"proposal_generator\.swap_path\.", "bridge", 0),
    (r"roi_heads\.swap_paths\.(\d+)\.", "bridge", 1),
    (r"proposal_generator\.box_detector\.class_head\.", "class head", 0),
    (r"roi_heads\.box_detectors\.(\d+)\.class_head\.", "class head", 1),
    (r"proposal_generator\.box_detector\.box_head\.", "box head", 0),
    (r"roi_heads\.box_detectors\.(\d+)\.box_head\.", "box head", 1),
    (r"roi_heads\.reid_embedder\.copy\.", "re-id stage copy", None),
    (r"roi_heads\.reid_embedder\.projectors\.", "re-id projectors", None),
    (r"roi_heads\.loc_embedders\.(\d+)\.copy\.", "localisation stage copy", 1),
    (r"roi_heads\.loc_embedders\.(\d+)\.projection\.", "localisation projection", 1),
    (r"roi_heads\.reid_loss\.", "re-id memory", None),
    (r"gallery_filter\.embedder\.copy\.", "scene stage copy", None),
    (r"gallery_filter\.embedder\.projectors\.", "scene projectors", None),
    (r"gallery_filter\.", "gallery filter", None),
    (r"twin\.", "momentum encoder", None),
    (r"lwf\.", "teacher of LwF", None),
)

# Every SPNet has these, and between the ones that pass weights on they are the same.
_REQUIRED = ("trunk", "FPN", "anchor embedder", "re-id stage copy")
# Belong to one training run.
_RUN = ("re-id memory", "momentum encoder", "teacher of LwF")
# Kinds that cascade stages have, and their first stage.
_ROUNDS = {
    "bridge": 0,
    "class head": 0,
    "box head": 0,
    "localisation stage copy": 1,
    "localisation projection": 1,
}

# A gallery filter's scenes start as people.
_SCENES = {"scene stage copy": "re-id stage copy", "scene projectors": "re-id projectors"}

_ORDER = {kind: i for i, (_, kind, _) in enumerate(_PARTS)}

Tensors = Mapping[str, Tensor]
# Part -> name within the part -> full name.
Parts = dict[Part, dict[str, str]]


def split_parts(names) -> Parts:
    """Group tensors by part; a name of no known part is one by itself, of kind ``""``."""
    parts: Parts = {}
    for name in names:
        for pattern, kind, offset in _PARTS:
            if match := re.match(pattern, name):
                index = int(match[1]) + (offset or 0) if match.groups() else offset
                parts.setdefault(Part(kind, index), {})[name[match.end() :]] = name
                break
        else:
            parts.setdefault(Part(""), {})[name] = name
    return parts


@dataclass(frozen=True)
class Row:
    """One line of a plan's table: what happens with a part, and why."""

    part: Part
    action: str
    tensors: int
    why: str = ""
    origin: Part | None = None


@dataclass(frozen=True)
class TransferPlan:
    """
    Where a model's weights come from.

    Attributes:
        sources: the model's tensor -> the checkpoint's tensor it is filled from. Tensors that are
            not named keep what the model was built with.
        rows: the same part by part, with the checkpoint's parts that are not used.
    """

    sources: dict[str, str]
    rows: tuple[Row, ...]

    def table(self) -> str:
        """The plan for people: parts, number of tensors, what happens with them, and why."""
        lines = []
        for (kind, action, why, origin), group in groupby(
            self.rows, lambda r: (r.part.kind, r.action, r.why, r.origin)
        ):
            rows = list(group)
            stages = [str(r.part.stage) for r in rows if r.part.stage is not None]
            name = f"{kind} {', '.join(stages)}" if stages else kind
            if origin is not None:
                action = f"{action} from {_label(origin)}"
            lines.append([name, sum(r.tensors for r in rows), action, why])
        return tabulate(lines, ["part", "tensors", "", "why"], disable_numparse=True)

    def unused(self) -> list[str]:
        """Parts of the checkpoint that would take part in detecting but are left out."""
        kinds = [r.part for r in self.rows if r.action == "dropped"]
        return [_label(p) for p in kinds if p.kind not in (*_RUN, "bridge", "anchor logits")]

    def count(self) -> str:
        """Numbers of tensors by what happens with them."""
        totals: Counter = Counter()
        for row in self.rows:
            totals[row.action] += row.tensors
        return ", ".join(f"{n} {action}" for action, n in totals.items())


def _label(part: Part) -> str:
    return part.kind if part.stage is None else f"{part.kind} {part.stage}"


def _first(differences: list[str]) -> str:
    return "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")


class _Planner:
    """Decides part by part; collects what can't be."""

    def __init__(self, source: Tensors, target: Tensors):
        self.source, self.target = source, target
        self.have, self.want = split_parts(source), split_parts(target)
        self.sources: dict[str, str] = {}
        self.rows: list[Row] = []
        self.used: set[Part] = set()
        self.mismatches: list[str] = []

    @property
    def becomes_separate(self) -> bool:
        """Shared heads in the checkpoint, separate ones in the model."""
        part = Part("localisation stage copy", 1)
        return part in self.want and part not in self.have

    def fits(self, part: Part, origin: Part) -> bool:
        """Whether a part of the checkpoint has the names and shapes of one of the model."""
        want, have = self.want[part], self.have.get(origin, {})
        return want.keys() == have.keys() and all(
            self.source[have[rest]].shape == self.target[name].shape for rest, name in want.items()
        )

    def must_fit(self, part: Part) -> bool:
        """Whether a difference in this part is an error; in the others it is a choice."""
        # Parts nobody knows, too: leaving weights out in silence would change the model.
        if part.kind in ("", *_REQUIRED) or part == Part("box head", 0):
            return True
        if part not in self.want or part not in self.have:
            return False
        if part.kind == "re-id projectors":
            return self.want[part].keys() != self.have[part].keys()
        return part.kind in _ROUNDS and part.kind != "class head"

    def copy(self, part: Part, origin: Part, why: str = "") -> None:
        have = self.have[origin]
        self.sources.update((name, have[rest]) for rest, name in self.want[part].items())
        self.used.add(origin)
        count = len(self.want[part])
        if part == origin:
            self.rows.append(Row(part, "copied", count, why))
        else:
            self.rows.append(Row(part, "replicated", count, why, origin))

    def initialise(self, part: Part, why: str) -> None:
        self.rows.append(Row(part, "initialised", len(self.want[part]), why))

    def require(self, part: Part) -> None:
        """Copy a part that has to fit, or note what doesn't."""
        if part in self.want and self.fits(part, part):
            self.copy(part, part)
            return
        want, have = self.want.get(part, {}), self.have.get(part, {})
        for rest, name in want.items():
            expected = tuple(self.target[name].shape)
            if rest not in have:
                self.mismatches.append(f"{name}: expected {expected}, the checkpoint has none")
            elif (found := tuple(self.source[have[rest]].shape)) != expected:
                self.mismatches.append(f"{name}: expected {expected}, found {found}")
        self.mismatches += [
            f"{name}: found {tuple(self.source[name].shape)}, the config's model has none"
            for rest, name in have.items()
            if rest not in want
        ]

    def drop_rest(self, reasons: Mapping[str, str]) -> None:
        for part, names in self.have.items():
            if part not in self.used:
                default = "a new one is made" if part in self.want else "not in the config's model"
                why = reasons.get(part.kind, default)
                self.rows.append(Row(part, "dropped", len(names), why))

    def finish(self) -> TransferPlan:
        if self.mismatches:
            raise TransferError(
                f"The checkpoint does not fit the config: {len(self.mismatches)} tensors differ "
                f"that must be the same ({_first(self.mismatches)}). Set "
                "MODEL.SPNET.BACKBONE.NAME, EMBED_DIM and SMALL_DATA.FEAT4_SHARE "
                "as in the config of the run that wrote it."
            )
        rows = sorted(
            self.rows,
            key=lambda r: (r.action == "dropped", _ORDER.get(r.part.kind, 99), r.part.stage or 0),
        )
        return TransferPlan(self.sources, tuple(rows))


def _planner(source: Tensors, target: Tensors) -> _Planner:
    planner = _Planner(source, target)
    if Part("anchor embedder") not in planner.have:
        raise TransferError(
            "This is no SPNet checkpoint: it has no 'proposal_generator.anchor_embedder.*'. First "
            f"names found: {', '.join(list(source)[:3]) or 'none'}. Weights of a backbone "
            "alone go to MODEL.SPNET.BACKBONE.PRETRAINED."
        )
    for part in [*planner.want, *(p for p in planner.have if p not in planner.want)]:
        if planner.must_fit(part):
            planner.require(part)
    return planner


def plan_start(source: Tensors, target: Tensors, cascade: str = "PT-Rep") -> TransferPlan:
    """
    Plan to start a training run from a checkpoint of any SPNet.

    Args:
        source: the checkpoint's tensors by this package's names.
        target: the model's.
        cascade: stages that the checkpoint lacks: ``"PT-Rep"`` replicates its first one, ``"PT"``
            leaves them as they were built.

    Returns:
        The plan.

    Raises:
        TransferError: no SPNet checkpoint, or one of another trunk, FPN width or embedding size.
        ValueError: unknown ``cascade``.
    """
    if cascade not in CASCADES:
        raise ValueError(f"cascade is {cascade!r}, expected one of {CASCADES}.")
    planner = _planner(source, target)
    for part in planner.want:
        if part.kind not in _RUN and not planner.must_fit(part):
            _start_part(planner, part, cascade)
    student = dict(planner.sources)
    for kind in _RUN:
        if Part(kind) in planner.want:
            _start_run(planner, Part(kind), student)
    planner.drop_rest(dict.fromkeys(_RUN, "belongs to the run that wrote it"))
    return planner.finish()


def _start_part(planner: _Planner, part: Part, cascade: str) -> None:
    """Where a part that may differ between SPNets comes from."""
    if part.kind == "re-id projectors" and planner.becomes_separate:
        # As the authors do, even where the size would fit.
        planner.initialise(part, "the checkpoint's heads are shared, these are separate")
        return
    if planner.fits(part, part):
        planner.copy(part, part)
        return
    people = Part(_SCENES.get(part.kind, ""))
    separate = part.kind == "scene projectors" and planner.becomes_separate
    if part not in planner.have and people.kind and not separate and planner.fits(part, people):
        planner.copy(part, people, "scenes start as people")
        return
    first = Part(part.kind, _ROUNDS.get(part.kind))
    replicate = cascade == "PT-Rep"
    if part in planner.have:
        planner.initialise(part, _difference(planner, part))
    elif part.kind == "localisation stage copy" and planner.becomes_separate:
        if part == first or replicate:
            planner.copy(part, Part("re-id stage copy"), "shared heads become separate")
        else:
            planner.initialise(part, "PT: only stage 1 takes the shared heads' weights")
    elif part != first and replicate and planner.fits(part, first):
        planner.copy(part, first, "PT-Rep: the checkpoint lacks this stage")
    elif part.kind == "bridge" and Part("bridge", 0) not in planner.have:
        planner.initialise(part, "the checkpoint is query-centric and has no bridge")
    elif part != first and first in planner.have:
        planner.initialise(part, "PT: the checkpoint lacks this stage")
    else:
        planner.initialise(part, "the checkpoint has none")


def _difference(planner: _Planner, part: Part) -> str:
    """Why a part of both was not copied."""
    want, have = planner.want[part], planner.have[part]
    if part.kind == "re-id projectors" and want.keys() == have.keys():
        sizes = [
            sum(len(state[n]) for rest, n in names.items() if rest.endswith(".0.bias"))
            for state, names in ((planner.target, want), (planner.source, have))
        ]
        return f"re-id size {sizes[0]}, the checkpoint's is {sizes[1]}"
    return "of another kind than the checkpoint's"


def _start_run(planner: _Planner, part: Part, student: Mapping[str, str]) -> None:
    """Parts that every run begins anew."""
    if part.kind == "re-id memory":
        planner.initialise(part, "every run fills its own")
        return
    if part.kind != "momentum encoder":
        planner.initialise(part, "keeps the backbone's pretrained weights")
        return
    origins = {}
    for rest, name in planner.want[part].items():
        prefix = "" if rest.startswith("backbone.") else "roi_heads."
        origins[name] = student.get(prefix + rest)
    found = {name: origin for name, origin in origins.items() if origin}
    planner.sources.update(found)
    why = "starts as the student"
    planner.rows.append(Row(part, "replicated", len(found), why))
    if len(found) < len(origins):
        # The momentum encoder was built equal to the model, so it still is.
        others = len(origins) - len(found)
        planner.rows.append(Row(part, "initialised", others, why))


def plan_serving(source: Tensors, target: Tensors) -> TransferPlan:
    """
    Plan to detect with a checkpoint: every part as it is or not at all.

    Args:
        source: the checkpoint's tensors by this package's names.
        target: the model's.

    Raises:
        TransferError: no SPNet checkpoint, or one of another trunk, FPN width or embedding size.
    """
    planner = _planner(source, target)
    for part in planner.want:
        if planner.must_fit(part):
            continue
        if planner.fits(part, part):
            planner.copy(part, part)
        elif part.kind == "re-id memory" and _adopts_table(planner):
            planner.sources.update((name, name) for name in planner.have[part].values())
            planner.used.add(part)
            planner.rows.append(Row(part, "copied", len(planner.have[part])))
        elif part in planner.have:
            planner.initialise(part, _difference(planner, part))
        else:
            planner.initialise(part, "the checkpoint has none")
    planner.drop_rest(dict.fromkeys(_RUN, "only training uses it"))
    return planner.finish()


def _adopts_table(planner: _Planner) -> bool:
    """Whether the model's look-up table has no size yet and all else of the memory fits."""
    part = Part("re-id memory")
    want, have = planner.want[part], dict(planner.have.get(part, {}))
    if have.pop("lut", None) is None or have.keys() != want.keys():
        return False
    return all(planner.source[have[k]].shape == planner.target[want[k]].shape for k in want)


def check_exact(source: Tensors, target: Tensors) -> None:
    """
    Check that a checkpoint is one of exactly this model, as resuming needs it.

    Raises:
        TransferError: names or shapes differ.
    """
    wrong = [
        f"{name}: expected {tuple(tensor.shape)}, found "
        + (str(tuple(source[name].shape)) if name in source else "none")
        for name, tensor in target.items()
        if name not in source or source[name].shape != tensor.shape
    ]
    wrong += [
        f"{name}: found {tuple(tensor.shape)}, the model has none"
        for name, tensor in source.items()
        # Where the config leaves its size open, the look-up table is the checkpoint's.
        if name not in target and name != "roi_heads.reid_loss.lut"
    ]
    if wrong:
        raise TransferError(
            f"The checkpoint is not one of this model: {len(wrong)} tensors differ "
            f"({_first(wrong)}). Resume with the config that the run was started with; to start a "
            "new run from its weights, give it as MODEL.WEIGHTS to a new OUTPUT_DIR."
        )


def apply_plan(plan: TransferPlan, source: Tensors, model: nn.Module) -> None:
    """Fill the model as planned; shapes were checked, so it can't stop half way."""
    state = {name: source[origin] for name, origin in plan.sources.items()}
    model.load_state_dict(state, strict=False)


def check_served(plan: TransferPlan, model: nn.Module) -> None:
    """
    Check that a plan fills everything that detections depend on.

    Raises:
        UntrainedModelError: it doesn't.
    """
    names = model.state_dict()
    refuse_untrained([n for n in names if n not in plan.sources and serves(model, n)])
