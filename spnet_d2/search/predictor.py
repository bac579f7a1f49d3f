"""A trained SPNet as an object: images in, people out."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.structures import Boxes, Instances
from torch import nn

import spnet_d2.modeling  # noqa: F401  (registers the model)
from spnet_d2.checkpoint.untrained import UntrainedModelError
from spnet_d2.config_checks import check_config
from spnet_d2.config_reader import read_config
from spnet_d2.data.model_input import model_image
from spnet_d2.data.transforms import build_augmentation
from spnet_d2.engine.serve import find_weights, serve
from spnet_d2.errors import SearchInputError
from spnet_d2.modeling.fingerprint import fingerprint, input_settings, model_settings
from spnet_d2.pretrained import pretrained_files

from .people import PersonDetections, PersonQuery, check_image, check_image_format

logger = logging.getLogger(__name__)


class PersonSearchPredictor:
    """
    Detect people and embed them, one image at a time, with the evaluation's own resize.

    ``PersonSearchPredictor(cfg, weights="model_final.pth")`` builds and loads the model;
    ``PersonSearchPredictor(model=..., augmentation=...)`` takes a ready one.
    """

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        augmentation,
        image_format: str = "BGR",
        exact_8bit: bool = False,
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
        settings: Mapping[str, object] | None = None,
        min_score: float = 0.0,
    ):
        """
        Args:
            model: SPNet, or anything with its input and output; it is put into eval mode.
            augmentation: of :func:`spnet_d2.data.transforms.build_augmentation` for testing.
            image_format: channel order of the images given: "BGR" (OpenCV) or "RGB".
            exact_8bit, pixel_mean, pixel_std: as for
                :class:`~spnet_d2.data.mapper.PersonSearchMapper`.
            settings: what else of a config changes boxes or embeddings, for ``fingerprint``.
            min_score: what the model finds has this score at least.

        Raises:
            ValueError: another channel order.
        """
        check_image_format(image_format)
        self.model = model.eval()
        self.augmentation = augmentation
        self.image_format = image_format
        self.exact_8bit = exact_8bit
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.min_score = min_score
        self.settings = {
            **input_settings(augmentation, exact_8bit, pixel_mean, pixel_std),
            **(settings or {}),
        }

    @classmethod
    def from_config(
        cls,
        cfg,
        weights: str | None = None,
        image_format: str = "BGR",
        allow_untrained: bool = False,
    ):
        """
        Args:
            cfg: Detectron2 config with SPNet's keys.
            weights: checkpoint; None: ``cfg.MODEL.WEIGHTS``.
            image_format: see ``__init__``.
            allow_untrained: see :func:`load_model`.

        Raises:
            SearchInputError: no weights, weights of another model, or settings out of range.
        """
        weights = cfg.MODEL.WEIGHTS if weights is None else weights
        with _settings_of_user():
            augmentation = build_augmentation(cfg, is_train=False)
        return {
            "model": load_model(cfg, weights, allow_untrained),
            "augmentation": augmentation,
            "image_format": image_format,
            "exact_8bit": cfg.INPUT.EXACT_8BIT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "settings": model_settings(cfg),
            "min_score": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        }

    @classmethod
    def pretrained(cls, name: str = "starter", opts: Sequence[str] = ()) -> "PersonSearchPredictor":
        """
        A predictor with weights that come with the package::

            predictor = PersonSearchPredictor.pretrained("starter")
            people = predictor.detect([image])[0]

        Args:
            name: of the weights (docs/starter.md).
            opts: KEY VALUE settings.

        Raises:
            UserError: no weights of this name, or settings that can't be used.
        """
        config, weights = pretrained_files(name)
        return cls(read_config(config, list(opts)), weights=str(weights))

    def detect(
        self, images: Iterable[np.ndarray], query: PersonQuery | None = None
    ) -> list[PersonDetections]:
        """
        Find the people of each image.

        Args:
            images: (H, W, 3) uint8 arrays; an iterator is consumed one image at a time.
            query: of :meth:`query`: find this person (query-centric pathway), whatever pathway
                the model's config chose.

        Returns:
            One result per image, empty where nobody is found.

        Raises:
            SearchInputError: the model detects for queries only, and none was given.
        """
        if query is not None:
            return [self._detect_for(query, image) for image in images]
        if self.query_centric:
            raise SearchInputError(
                "This model searches query by query (MODEL.SPNET.TEST_PATHWAY is QC), so it has no "
                "detections, nor a gallery index, that serve every query. In code, give "
                "detect(images, query=predictor.query(image, box)); or set "
                "MODEL.SPNET.TEST_PATHWAY OC, if its weights have a bridge."
            )
        return [_people(**self._run(self._input(image))) for image in images]

    def query(self, image: np.ndarray, box) -> PersonQuery:
        """
        Embed one person to search for query-centrically.

        Args:
            image: (H, W, 3) uint8, the scene that shows the person.
            box: xyxy, pixels of ``image``; clip it first.
        """
        boxes = np.asarray(box, np.float64).reshape(1, 4)
        result = self._run(self._input(image, boxes))
        given, scene = result["gt_embeddings"], result.get("scene_embedding")
        return PersonQuery(
            _array(given["reid"])[0],
            _array(given["loc"])[0],
            None if scene is None else _array(scene),
        )

    def _detect_for(self, query: PersonQuery, image: np.ndarray) -> PersonDetections:
        queries = {"reid": torch.from_numpy(query.reid), "loc": torch.from_numpy(query.loc)}
        x = self._input(image) | {"queries": {k: v[None] for k, v in queries.items()}}
        return _people(self._run(x)["query_instances"][0])

    @property
    def scene_fuser(self) -> np.ndarray | None:
        """Of the gallery filter, as :mod:`spnet_d2.evaluation.scene_scores` takes it."""
        filtering = getattr(self.model, "gallery_filter", None)
        fuser = None if filtering is None else filtering.scoring()
        return None if fuser is None else _array(fuser)

    def embed(self, image: np.ndarray, boxes) -> np.ndarray:
        """
        Embed given people, each in its scene, in one pass.

        Args:
            image: (H, W, 3) uint8.
            boxes: (N, 4) xyxy, pixels of ``image``; clip them first.

        Returns:
            (N, D_r) float32, in the order of ``boxes``.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return _array(self._run(self._input(image, boxes))["gt_embeddings"]["reid"])

    @property
    def query_centric(self) -> bool:
        """Whether the model's config detects for queries only."""
        return getattr(self.model, "test_pathway", "OC") == "QC"

    @cached_property
    def embedding_dim(self) -> int:
        """D_r, length of the re-id embeddings."""
        # Any model says it by what it gives, also one that is not an SPNet.
        return self.embed(np.zeros((64, 64, 3), np.uint8), [[16, 8, 48, 56]]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """
        Text that is equal where boxes and embeddings can be compared.

        It depends on all weights, on the buffers (statistics of norms) and on ``settings``:
        resize, normalisation, 8-bit detour, precision, pathway, NMS and limits. The least score
        and the memories of training change neither.
        """
        return fingerprint(self.model, self.settings)

    def _run(self, model_input: dict) -> dict:
        with torch.inference_mode():
            return self.model([model_input])[0]

    def _input(self, image: np.ndarray, boxes: np.ndarray | None = None) -> dict:
        """The model's input for one image, as the evaluation's mapper makes it; with ``boxes``
        (N, 4), only these are embedded."""
        check_image(image)
        height, width = image.shape[:2]
        none = np.zeros((0, 4))
        view = self.augmentation((height, width), none, np.zeros(0, bool), None)
        rgb = image[:, :, ::-1] if self.image_format == "BGR" else image
        pixels = model_image(rgb, view, self.exact_8bit, self.pixel_mean, self.pixel_std)
        result = {"image": pixels, "height": height, "width": width}
        if boxes is not None:
            moved = torch.from_numpy(view.apply_boxes(boxes))
            result["instances"] = Instances(view.output, gt_boxes=Boxes(moved))
            result["embed_only"] = True
        return result


def load_model(cfg, weights: str, allow_untrained: bool = False) -> nn.Module:
    """
    Build the config's model and load a checkpoint that has to cover all of it.

    Args:
        cfg: Detectron2 config; not changed.
        weights: path of the checkpoint.
        allow_untrained: accept that it does not cover all of the model, or that there is none.

    Returns:
        The model in eval mode; on the CPU if the config names CUDA and there is none.

    Raises:
        SearchInputError: no weights given, no such file, weights of another model, or settings
            that no model can be built with.
    """
    if not weights and not allow_untrained:
        raise SearchInputError("No weights given; set --weights (MODEL.WEIGHTS) to a checkpoint.")
    try:
        # Before the model is built, which takes a while.
        weights = find_weights(weights, cfg.OUTPUT_DIR)
        with _settings_of_user():
            check_config(cfg, training=False)
        return serve(cfg, weights, allow_untrained=allow_untrained)
    except (OSError, UntrainedModelError, ValueError) as error:
        raise SearchInputError(str(error)) from error


@contextmanager
def _settings_of_user() -> Iterator[None]:
    """Building from a config: errors in its settings are the user's."""
    try:
        yield
    except ValueError as error:
        raise SearchInputError(f"The config can't be used: {error}") from error


def _people(
    instances: Instances, scene_embedding: torch.Tensor | None = None, **_: object
) -> PersonDetections:
    """Of a model's result."""
    scores = _array(instances.scores)
    order = np.argsort(-scores, kind="stable")
    boxes = _array(instances.pred_boxes.tensor)
    embeddings = _array(instances.reid_embeddings)[order]
    scene = None if scene_embedding is None else _array(scene_embedding)
    return PersonDetections(boxes[order], scores[order], embeddings, scene)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
