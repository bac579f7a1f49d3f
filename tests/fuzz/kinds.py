"""The kinds of input: how each is made, and what must hold whatever it is."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
import yaml
from detectron2.modeling import build_model
from hypothesis import strategies as st

from spnet_d2.checkpoint.files import read_checkpoint
from spnet_d2.config_checks import check_config
from spnet_d2.config_reader import ConfigError, get_value, read_config
from spnet_d2.data.image_reader import read_image
from spnet_d2.data.own_sets import read_sets
from spnet_d2.data.person_search_json import (
    load_person_search_json,
    load_person_search_table,
)
from spnet_d2.engine import Checkpointer
from spnet_d2.errors import is_users
from spnet_d2.evaluation import GroundTruth, Predictions, RetrievalProtocol, evaluate_predictions
from spnet_d2.evaluation.prediction_checks import check_boxes, image_sizes
from spnet_d2.search.frames import VideoFile
from spnet_d2.utils.warn_once import warn_once
from tests.fuzz.inputs import (
    ODD,
    SIZE,
    damaged,
    images,
    json_text,
    partition,
    spoilt,
    torch_file,
    videos,
)
from tests.search.tiny import tiny_config


@dataclass(frozen=True)
class Kind:
    """
    Attributes:
        strategy: makes up (suffix, content) of a file.
        check: reads the file; what it raises must be the user's to mend.
        count: inputs of a whole run.
    """

    strategy: st.SearchStrategy
    check: Callable[[Path], object]
    count: int


# Messages of the user's errors, to tell how many inputs were refused.
refused: list[str] = []


@contextmanager
def users_errors(*names: str) -> Iterator[None]:
    """The user's errors end the block if they have one of ``names``: what is wrong."""
    try:
        yield
    except Exception as error:
        if not is_users(error):
            raise
        message = str(error)
        refused.append(message)
        assert any(name in message for name in names), f"it names none of {names}: {message}"


class _Heard(logging.Handler):
    """Warnings of the package."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """Warnings that the package gives inside of the block."""
    handler, logger = _Heard(), logging.getLogger("spnet_d2")
    warn_once.cache_clear()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def check_annotations(path: Path) -> None:
    with heard(), users_errors(str(path)):
        for image in load_person_search_json(path, path.parent):
            for entry in image["annotations"]:
                x, y, w, h = entry["bbox"]
                assert 0 <= x < x + w <= image["width"] * (1 + 1e-9)
                assert 0 <= y < y + h <= image["height"] * (1 + 1e-9)


def check_protocol(path: Path) -> None:
    # Ids that the data set lacks are those of the protocol, which is called by its file's name.
    with users_errors(str(path), f'protocol "{path.stem}"', f'Protocol "{path.stem}"'):
        RetrievalProtocol.read(str(path), _truth()[0])


@cache
def _truth() -> tuple[GroundTruth, np.ndarray]:
    """The data set of predictions and protocols, and the sizes of its images."""
    with NamedTemporaryFile(suffix=".json") as file:
        file.write(json.dumps(partition()).encode())
        file.flush()
        table = load_person_search_table(file.name)
    return GroundTruth.from_table(table), image_sizes(table.images)


def score(path: Path) -> None:
    """As tools/evaluate.py does."""
    truth, sizes = _truth()
    predictions = Predictions.load(path)
    check_boxes(predictions, truth, sizes, str(path))
    protocol = RetrievalProtocol.read("all", truth)
    evaluation = evaluate_predictions(truth, [protocol], predictions)
    detection, found = evaluation.detection, evaluation.retrieval["all"]
    for value in (detection.ap, detection.recall, found.mean_ap):
        assert 0 <= value <= 1, value


def check_predictions(path: Path) -> None:
    with heard(), warnings.catch_warnings(), users_errors(str(path), "predictions"):
        warnings.simplefilter("ignore")
        score(path)


def told(path: Path, read: Callable[[Path], object]) -> None:
    """Nonsense that the numbers tell is an error or a warning that names the file."""
    with heard() as messages:
        try:
            read(path)
        except Exception as error:
            if not is_users(error):
                raise
            messages.append(str(error))
            refused.append(str(error))
    assert any(str(path) in message for message in messages), "nothing was said"


@st.composite
def odd_units(draw: Callable) -> tuple[str, bytes]:
    """Annotations as corners, fractions, of another size, without extent or from right to left."""
    content = partition(draw(st.integers(0, 10**6)), 6, draw(st.integers(4, 10)))
    how = draw(st.sampled_from(["corners", "fractions", "percent", "larger", "negative", "empty"]))
    scale = np.array([*SIZE, *SIZE])
    for entry in content["annotations"]:
        box = np.array(entry["bbox"])
        if how == "corners":
            box[2:] += box[:2]
        elif how in ("fractions", "percent"):
            box = box / scale * (100 if how == "percent" else 1)
        elif how == "larger":
            box = box * 2.0
        elif how == "negative":
            box[2:] *= -1
        else:
            box[2:] = 0
        entry["bbox"] = box.tolist()
    return "json", json.dumps(content).encode()


def _arrays(seed: int) -> dict[str, np.ndarray]:
    """Predictions that find everybody."""
    rng, truth = np.random.default_rng(seed), _truth()[0]
    return {
        "image_ids": truth.image_ids[truth.image_index],
        "boxes": truth.boxes + rng.uniform(-2, 2, truth.boxes.shape),
        "scores": rng.uniform(0.5, 1, len(truth.boxes)),
        "embeddings": rng.standard_normal((len(truth.boxes), 4)).astype(np.float32),
        "gt_annotation_ids": truth.annotation_ids,
        "gt_embeddings": rng.standard_normal((len(truth.boxes), 4)).astype(np.float32),
    }


def _saved(arrays: dict) -> tuple[str, bytes]:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(file, **arrays)
    return "npz", file.getvalue()


_DTYPES = ["float64", "float32", "float16", "int64", "uint8", ">f4", "complex64", "bool", "U5"]
_NUMBERS = [np.nan, np.inf, -np.inf, 0, -1, 1e300, 2.0**63, 5]


@st.composite
def odd_predictions(draw: Callable) -> tuple[str, bytes]:
    arrays = _arrays(draw(st.integers(0, 100)))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*arrays, "query_annotation_ids"]))
        array = arrays.get(name, arrays["image_ids"] if "image_ids" in arrays else np.zeros(3))
        how = draw(st.sampled_from(["type", "value", "value", "shape", "rows", "remove", "odd"]))
        if how == "type" and array.dtype.kind in "fiu":
            arrays[name] = array.astype(draw(st.sampled_from([*_DTYPES, object])))
        elif how == "value" and array.dtype.kind in "fiu" and array.size:
            array = array.copy()
            number = draw(st.sampled_from(_NUMBERS))
            if array.dtype.kind != "f":
                number = int(np.nan_to_num(number, posinf=9, neginf=-9)) % 200
            with np.errstate(over="ignore"):
                array.reshape(-1)[draw(st.integers(0, array.size - 1)) :] = number
            arrays[name] = array
        elif how == "shape":
            arrays[name] = draw(st.sampled_from([array.reshape(-1), array[None], array.T]))
        elif how == "rows":
            arrays[name] = array[: draw(st.integers(0, 3))] if array.ndim else array
        elif how == "odd":
            arrays[name] = np.array(draw(st.sampled_from([None, "x", 3, [], {}])))
        elif how == "remove":
            arrays.pop(name, None)
    suffix, content = _saved(arrays)
    return suffix, draw(damaged(content)) if draw(st.integers(0, 3)) == 0 else content


@st.composite
def odd_prediction_units(draw: Callable) -> tuple[str, bytes]:
    """Another convention of boxes, scores or embeddings."""
    arrays = _arrays(draw(st.integers(0, 10**6)))
    boxes = arrays["boxes"]
    how = draw(st.sampled_from(["xywh", "relative", "larger", "smaller", "turned", "logits"]))
    if how == "xywh":
        boxes[:, 2:] -= boxes[:, :2]
    elif how == "relative":
        boxes /= (*SIZE, *SIZE)
    elif how in ("larger", "smaller"):
        boxes *= 2.0 if how == "larger" else 0.5
    elif how == "turned":
        arrays["boxes"] = boxes[:, [1, 0, 3, 2]]
    else:
        scale, shift = draw(st.sampled_from([(100, 0), (8, -3)]))
        arrays["scores"] = arrays["scores"] * scale + shift
    if draw(st.booleans()):
        arrays["embeddings"] = np.zeros_like(arrays["embeddings"])
    return _saved(arrays)


@st.composite
def one_of_files(draw: Callable, files: Callable[[], dict[str, bytes]]) -> tuple[str, bytes]:
    """One of ``files()``, damaged."""
    suffix = draw(st.sampled_from(sorted(files())))
    return suffix, draw(damaged(files()[suffix]))


def check_image(path: Path) -> None:
    with heard(), warnings.catch_warnings(), users_errors(str(path)):
        warnings.simplefilter("ignore")
        image = read_image(path)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def check_video(path: Path) -> None:
    with heard(), users_errors(str(path)):
        for count, frame in enumerate(VideoFile(path)):
            assert frame.image.dtype == np.uint8 and frame.image.ndim == 3
            if count > 200:
                break


@cache
def _model():
    return build_model(tiny_config())


@cache
def _states() -> list:
    """What a checkpoint may hold; most of it is of another model, or none."""
    state = {name: value.clone() for name, value in _model().state_dict().items()}
    small = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3)}
    first = next(iter(state))
    return [
        {"model": state, "iteration": 3},
        {"model": small, "iteration": 3, "optimizer": {"state": {}}},
        {"model": {}},
        {"model": {**state, first: torch.zeros(1)}},
        {"model": {**state, first: torch.full_like(state[first], float("nan"))}},
        {"model": {**state, first: "text"}},
        {"model": {**state, 5: torch.zeros(1)}},
        {"model": {**state, first: None}},
        {"model": {name: value.half() for name, value in state.items()}},
        {"model": dict(list(state.items())[: len(state) // 2])},
        {"state_dict": small},
        {"state_dict": None},
        {"model": [1, 2]},
        {"model": None},
        {"model": torch.ones(2)},
        small,
        [small],
        torch.ones(2),
        "text",
        None,
        3,
        {},
        {"model": {"model": small}},
        {1: 2},
    ]


@st.composite
def checkpoints(draw: Callable) -> tuple[str, bytes]:
    """A file of another structure, or a damaged one."""
    states = _states()
    if draw(st.booleans()):
        content = torch_file(states[draw(st.integers(0, len(states) - 1))], draw(st.booleans()))
        return draw(st.sampled_from(["pth", "ckpt", "pkl"])), content
    return "pth", draw(damaged(torch_file(states[1], draw(st.booleans()))))


def check_checkpoint(path: Path) -> None:
    with heard(), users_errors(str(path)):
        if path.suffix == ".pth":
            read_checkpoint(path)
        Checkpointer(_model(), str(path.parent)).load_to_serve(str(path))


@cache
def _config_keys() -> list[str]:
    def keys(node, prefix=""):
        for name, value in node.items():
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    return sorted(keys(read_config()))


_WORDS = ["", "x", "QC", "('x')", "('x',)", "[1, 2]", "None", "nan", "inf", "-1", "0", "1e400"]
_WORDS += ["10**9", "{}", "true", "[[]]", "'", "\0", "0.5", "99999999999999999999", "!!python/x"]


@st.composite
def configs(draw: Callable) -> tuple[str, bytes]:
    """A YAML file with odd values and keys, at times damaged."""
    content: dict = {}
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(_config_keys()))
        *path, last = key.split(".")
        inside = content
        for name in path:
            inside = inside.setdefault(name, {})
            if not isinstance(inside, dict):
                break
        else:
            last = last + "X" if draw(st.integers(0, 9)) == 0 else last
            inside[last] = draw(st.one_of(ODD, st.sampled_from(_WORDS)))
    try:
        text = yaml.safe_dump(content).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, UnicodeError):
        text = repr(content).encode("utf-8", "backslashreplace")
    return "yaml", draw(damaged(text)) if draw(st.integers(0, 3)) == 0 else text


def check_config_file(path: Path) -> None:
    try:
        cfg = read_config(path)
    except ConfigError as error:
        refused.append(str(error))
        assert path.name in str(error), f"the message does not name {path.name}: {error}"
        return
    # The settings that can't work, by their keys.
    with users_errors("."):
        check_config(cfg)


@st.composite
def settings_of_a_command(draw: Callable) -> tuple[str, bytes]:
    """KEY VALUE, for every key there is."""
    key = draw(st.sampled_from(_config_keys()))
    return "json", json.dumps([key, draw(st.sampled_from(_WORDS))]).encode()


def check_settings(path: Path) -> None:
    key, value = json.loads(path.read_bytes())
    try:
        cfg = read_config(opts=[key, value])
        get_value(cfg, key)
        check_config(cfg)
    except ConfigError as error:
        refused.append(str(error))
        assert key.split(".")[-1] in str(error), f"the message does not name {key}: {error}"


@st.composite
def files_of_sets(draw: Callable) -> tuple[str, bytes]:
    """A YAML file for ``DATASETS.FILES``."""
    street = {"json": "a.json", "images": "frames", "protocols": {"later": "retrieval/later.json"}}
    content = draw(spoilt({"street_train": street, "street_test": {**street}}))
    try:
        text = yaml.safe_dump(content).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, UnicodeError):
        text = repr(content).encode("utf-8", "backslashreplace")
    return "yaml", draw(damaged(text)) if draw(st.booleans()) else text


def check_sets(path: Path) -> None:
    with users_errors(str(path)):
        assert isinstance(read_sets(path), list)


def _json(content: dict) -> st.SearchStrategy:
    return st.tuples(st.just("json"), json_text(content))


_LISTED = {"images": [0, 1, 2], "queries": [10, 11, 12]}
_GALLERIES = {"images": [0, 1, 2], "queries": {"10": [1, 2], "14": [0, 2, 0]}}

KINDS = {
    "annotations": Kind(_json(partition(0, 2, 2)), check_annotations, 1200),
    "annotations in odd units": Kind(
        odd_units(), lambda path: told(path, lambda p: load_person_search_json(p, "")), 100
    ),
    "protocols": Kind(st.one_of(_json(_LISTED), _json(_GALLERIES)), check_protocol, 600),
    "predictions": Kind(odd_predictions(), check_predictions, 900),
    "predictions in odd units": Kind(odd_prediction_units(), lambda path: told(path, score), 100),
    "images": Kind(one_of_files(images), check_image, 1200),
    "videos": Kind(one_of_files(videos), check_video, 250),
    "checkpoints": Kind(checkpoints(), check_checkpoint, 300),
    "config files": Kind(configs(), check_config_file, 500),
    "files of data sets": Kind(files_of_sets(), check_sets, 300),
    "settings": Kind(settings_of_a_command(), check_settings, 800),
}
