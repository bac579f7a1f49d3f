"""Person-search data sets in Detectron2's catalogs.

A JSON is opened when its data set is loaded, so the names exist whether or not the corpora do.
"""

import difflib
import functools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog

from spnet_d2.data.person_search_json import (
    PREPARE_HINT,
    count_people,
    load_person_search_json,
    names_categories,
)
from spnet_d2.errors import UserError

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "person_search"
CUHK_PROTOCOLS = (
    *("G100", "G50", "G500", "G1000", "G2000", "G4000"),
    *("GFull", "GOcclusion", "GResolution"),
)
PRW_PROTOCOLS = ("test", "same_cam_id", "cross_cam_id")
PETS09_PROTOCOLS = ("standard", "reentry")
# Pieces of trainval, by partition: end of the registered name.
_CUTS = {
    "train": "split_train",
    "val": "split_val",
    **{
        name: name
        for name in (
            "minitrain",
            "minival",
            "tinytrainval4",
            "tinytrainval8",
            "tinytrainval12",
            "tinytrainval16",
        )
    },
}
# Names that few train on: small pieces, and sets with added random boxes.
_PIECE = re.compile(r"_tinytrainval\d+$|_G\d+(train|val)$|_p\d+$")
_NOISE_PERCENT = (20, 40, 60, 80, 100, 120, 140, 160, 180)
_COCO_SAMPLES = (10, 100, 1000, 10000)


def register_person_search(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    protocol: str | os.PathLike | Mapping[str, str | os.PathLike] | None = None,
    hint: str = PREPARE_HINT,
    has_categories: bool | None = None,
) -> None:
    """Register a partition in the generic JSON under ``name``.

    Args:
        name: for ``cfg.DATASETS``.
        json_file: the partition, opened when first used.
        image_root: folder that the ``file_name`` of an image is relative to.
        protocol: a retrieval protocol (named after its file), or name to path with the default
            protocol first, or None.
        hint: what to do when ``json_file`` is missing, for the error message.
        has_categories: whether the file has COCO's ``categories``, without which Detectron2's
            ``COCOEvaluator`` can't read it: it then writes a file of its own into its
            ``output_dir``. None: its bytes are searched for the word.

    Registering the same again does nothing.

    Raises:
        ValueError: if ``name`` stands for something else already.
    """
    metadata = {
        "evaluator_type": EVALUATOR_TYPE,
        "person_search_file": os.fspath(json_file),
        "image_root": os.fspath(image_root),
        "protocols": _by_name(protocol),
        "thing_classes": ["person"],
        # COCO's category of a person is class 0: for Detectron2's own evaluator and tools.
        "thing_dataset_id_to_contiguous_id": {1: 0},
        "prepare_hint": hint,
    }
    if has_categories if has_categories is not None else names_categories(json_file):
        # Detectron2's COCOEvaluator reads it; without it, it writes a file of its own.
        metadata["json_file"] = os.fspath(json_file)
    if name in DatasetCatalog:
        _check_same(name, metadata)
        return
    DatasetCatalog.register(
        name,
        functools.partial(load_person_search_json, os.fspath(json_file), image_root, hint),
    )
    MetadataCatalog.get(name).set(**metadata)


def _by_name(
    protocol: str | os.PathLike | Mapping[str, str | os.PathLike] | None,
) -> dict[str, str]:
    """Protocols as :func:`register_person_search` takes them: name -> path."""
    if protocol is None:
        return {}
    if isinstance(protocol, Mapping):
        return {key: os.fspath(path) for key, path in protocol.items()}
    return {Path(protocol).stem: os.fspath(protocol)}


def _check_same(name: str, metadata: Mapping[str, Any]) -> None:
    """Refuse a name that stands for something else already."""
    found = MetadataCatalog.get(name).as_dict() if name in MetadataCatalog else {}
    differing = [key for key in metadata if found.get(key) != metadata[key]]
    # Dictionaries are equal in any order, but the first protocol is the default one.
    if not differing and list(found["protocols"]) == list(metadata["protocols"]):
        return
    raise ValueError(
        f"the data set {name!r} is registered already, with json_file "
        f"{found.get('person_search_file')!r} instead of {metadata['person_search_file']!r} "
        f"(differing: {', '.join(differing) or 'protocols'}); choose another name, or call "
        f"spnet_d2.data.catalog.unregister({name!r}) first"
    )


def similar_names(name: str) -> list[str]:
    """Up to three registered names like ``name``; pieces of a corpus only if no whole one is."""
    registered = DatasetCatalog.list()
    whole = [known for known in registered if not _PIECE.search(known)]
    close = difflib.get_close_matches
    return close(name, whole, n=3) or close(name, registered, n=3)


class UnknownDataSetError(UserError, ValueError):
    """A name that no data set is registered under."""


def get_dicts(name: str) -> list[dict[str, Any]]:
    """
    Detectron2's dicts of a data set.

    Raises:
        UnknownDataSetError: there is none of that name.
    """
    if name not in DatasetCatalog:
        raise UnknownDataSetError(f"The data set is {unregistered(name)}")
    return DatasetCatalog.get(name)


def unregistered(name: str) -> str:
    """What to say of a name that no data set is registered under, from the name on."""
    names = ", ".join(similar_names(name))
    similar = f" Similar ones: {names}." if names else ""
    return (
        f"{name!r}, which is not registered.{similar} datasets/README.md lists all names, and says "
        "how to register data of your own: by a YAML file in DATASETS.FILES, or by a script that "
        "calls register_person_search of spnet_d2.data.catalog before it builds the Trainer, in "
        "every process."
    )


def unregister(name: str) -> None:
    """Remove ``name`` from both catalogs, if it is there."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


def register_builtin_datasets(root: str | os.PathLike | None = None) -> list[str]:
    """Register the corpora this project prepares; ``datasets/README.md`` lists the names.

    Args:
        root: folder of the corpora, default ``$DETECTRON2_DATASETS`` or ``./datasets``. Calling
            again with another root moves the names there.

    Returns:
        The names.
    """
    root = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    entries = {**_cuhk_sysu(root), **_prw(root), **_cocopersons(root), **_pets09(root)}
    for name, (json_file, image_root, protocols, script) in entries.items():
        # PETS09 is the one corpus fetched by its script, into the same place.
        option = "--output" if script.startswith("prepare_pets09.py") else "--dataset-dir"
        folder = root / json_file.relative_to(root).parts[0]
        hint = (
            f"Prepare it with: python datasets/{script} {option} {folder} (datasets/README.md says "
            "where to get the corpus; DETECTRON2_DATASETS names the folder of all corpora)"
        )
        if (
            name in DatasetCatalog
            and MetadataCatalog.get(name).get("evaluator_type") == EVALUATOR_TYPE
            and MetadataCatalog.get(name).person_search_file != os.fspath(json_file)
        ):
            unregister(name)
        register_person_search(name, json_file, image_root, protocols, hint, True)
    return list(entries)


Entry = tuple[Path, Path, dict[str, Path], str]


def _protocols(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    return {name: folder / "retrieval" / f"{name}.json" for name in names}


def _retrieval_corpus(
    prefix: str, folder: Path, images: str, protocols: Sequence[str], script: str
) -> dict[str, Entry]:
    """Names of a corpus with trainval, test and pieces of trainval."""

    def entry(partition: str, names: Sequence[str] = ()) -> Entry:
        json_file = folder / "coco" / f"{partition}.json"
        return json_file, folder / images, _protocols(folder, names), script

    entries = {f"{prefix}_train": entry("trainval"), f"{prefix}_test": entry("test", protocols)}
    for partition, suffix in _CUTS.items():
        entries[f"{prefix}_{suffix}"] = entry(partition, ("val",) if partition == "val" else ())
    return entries


def _cuhk_sysu(root: Path) -> dict[str, Entry]:
    return _retrieval_corpus(
        "cuhk_sysu", root / "cuhk", "Image/SSM", CUHK_PROTOCOLS, "prepare_cuhk_sysu.py"
    )


def _prw(root: Path) -> dict[str, Entry]:
    return _retrieval_corpus("prw", root / "prw", "frames", PRW_PROTOCOLS, "prepare_prw.py")


def _cocopersons(root: Path) -> dict[str, Entry]:
    partitions = ["train", *(f"train_p{percent}" for percent in _NOISE_PERCENT)]
    partitions += [f"G{size}{part}" for size in _COCO_SAMPLES for part in ("train", "val")]
    folders = dict.fromkeys(partitions, "train2017") | {"val": "val2017"}
    return {
        f"cocopersons_{partition}": (
            root / "coco" / "coco" / f"{partition}.json",
            root / "coco" / images,
            {},
            "prepare_cocopersons.py",
        )
        for partition, images in folders.items()
    }


def _pets09(root: Path) -> dict[str, Entry]:
    folder, script = root / "pets09", "prepare_pets09.py"

    def entry(part: str, images: str, names: Sequence[str] = (), option: str = "") -> Entry:
        return folder / f"{part}.json", folder / images, _protocols(folder, names), script + option

    weak = ["weak_train", *(f"weak_train_p{percent}" for percent in _NOISE_PERCENT)]
    return {
        "pets09_train": entry("train", "frames"),
        "pets09_test": entry("test", "frames", PETS09_PROTOCOLS),
        **{f"pets09_{part}": entry(part, "frames", option=" --weak") for part in weak},
        "pets09_hog_train": entry("hog_train", "hog_frames", option=" --weak"),
    }


def num_people(name: str) -> tuple[int, int]:
    """(all people, known people) of a registered data set.

    Data sets registered elsewhere count by the ``person_id`` and ``identity`` of their dicts.

    Raises:
        ValueError: if they have none.
    """
    if _is_person_search(name):
        metadata = MetadataCatalog.get(name)
        json_file = metadata.person_search_file
        stamp = os.stat(json_file).st_mtime_ns if os.path.exists(json_file) else None
        return _count_people(json_file, stamp, metadata.prepare_hint)
    dicts = _load_foreign(name)
    entries: list[dict[str, Any]] = [entry for image in dicts for entry in image["annotations"]]
    return (
        max((entry["person_id"] for entry in entries), default=-1) + 1,
        max((entry["identity"] for entry in entries), default=-1) + 1,
    )


def _is_person_search(name: str) -> bool:
    """Whether :func:`register_person_search` made the entry."""
    return (
        name in DatasetCatalog and MetadataCatalog.get(name).get("evaluator_type") == EVALUATOR_TYPE
    )


def _load_foreign(name: str) -> list[dict[str, Any]]:
    """The dicts of a data set registered elsewhere, whose annotations say who people are."""
    dicts = DatasetCatalog.get(name)
    for image in dicts:
        for entry in image.get("annotations", ({},)):
            if not ("person_id" in entry and "identity" in entry):
                raise ValueError(
                    f"{name} is no person-search data set: image {image.get('image_id')!r} has no "
                    "annotations with person_id and identity. Register one with "
                    "spnet_d2.data.catalog.register_person_search (datasets/README.md says how); "
                    "the people of COCO are cocopersons_train."
                )
    return dicts


@functools.lru_cache(maxsize=64)
def _count_people(json_file: str, stamp: int | None, hint: str) -> tuple[int, int]:
    """Counts of a file in the state of ``stamp`` (its time of change)."""
    return count_people(json_file, hint)


def num_identities(names: Sequence[str]) -> int:
    """Rows L of the look-up table: known people summed over training sets."""
    return sum(num_people(name)[1] for name in _distinct(names))


def get_training_dicts(names: Sequence[str]) -> list[dict[str, Any]]:
    """Load training sets one after the other, as if they were one.

    People of different sets are different people. ``person_id``, ``identity``, ``image_id`` and
    ``annotation_id`` of a set are counted on from the sets before it, so that all stay unique; the
    first set keeps its own.

    Raises:
        ValueError: if a data set is named twice, for its people would become two each, or if one
            registered elsewhere is of another kind.
    """
    names = _distinct(names)
    merged: list[dict[str, Any]] = []
    # person_id and identity count everybody in a file, those without a box in an image included.
    first = {"person_id": 0, "identity": 0}
    for name in names:
        dicts = DatasetCatalog.get(name) if _is_person_search(name) else _load_foreign(name)
        if merged:
            _count_on(dicts, merged, first)
        merged.extend(dicts)
        if name != names[-1]:
            people, identities = num_people(name)
            first["person_id"] += people
            first["identity"] += identities
    return merged


def _count_on(
    dicts: list[dict[str, Any]], before: list[dict[str, Any]], first: Mapping[str, int]
) -> None:
    """Renumber ``dicts`` in place so that they can follow the dicts ``before``."""
    images = _shift(dicts, before, "image_id")
    entries, others = (
        [entry for image in part for entry in image["annotations"]] for part in (dicts, before)
    )
    annotations = _shift(entries, others, "annotation_id")
    for image in dicts:
        image["image_id"] += images
    for entry in entries:
        entry["person_id"] += first["person_id"]
        if entry["identity"] >= 0:
            entry["identity"] += first["identity"]
        entry["annotation_id"] += annotations


def _shift(entries: list[dict[str, Any]], before: list[dict[str, Any]], key: str) -> int:
    """What lifts all ``key`` of ``entries`` above those ``before``."""
    highest = max((entry[key] for entry in before), default=-1)
    return highest + 1 - min((entry[key] for entry in entries), default=0)


def _distinct(names: Sequence[str]) -> Sequence[str]:
    if isinstance(names, str) or len(set(names)) != len(names):
        raise ValueError(f"expected a sequence of different data set names, found {names!r}")
    return names
