"""Tiny models that detect something, and how closely an export has to agree with them."""

import numpy as np
import torch

from spnet_d2.data.transforms import build_augmentation
from spnet_d2.modeling.fingerprint import model_settings
from spnet_d2.modeling.fixed_norm import NormLogits
from spnet_d2.search import PersonDetections, PersonSearchPredictor


def scenes(sizes, seed: int = 0) -> list[np.ndarray]:
    """Random images (H, W, 3)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def detecting(model, cfg) -> PersonSearchPredictor:
    """A predictor of a random model whose scores lie on both sides of 0.5."""
    generator = model.proposal_generator
    features = model.backbone(torch.randn(1, 3, 96, 160))
    with torch.no_grad():
        conv = generator.anchor_embedder.conv
        conv.bias.zero_()
        norms = generator.anchor_embedder([features[name] for name in features]).norm(dim=-1)
        conv.weight.mul_(generator.anchor_logits.mean / norms.quantile(0.05))
        for path in (generator.swap_path, *model.roi_heads.swap_paths):
            if hasattr(path, "bridge"):
                path.bridge.bias.normal_(std=0.1)
        for module in model.modules():
            if isinstance(module, NormLogits) and module.kind == "batch_norm":
                module.norm.running_mean.fill_(module.mean)
        # Deltas of some pixels.
        for detector in (generator.box_detector, *model.roi_heads.box_detectors):
            last = detector.box_head[-1]
            last.weight.normal_(std=1.2 * last.in_features**-0.5)
    return PersonSearchPredictor(
        model=model,
        augmentation=build_augmentation(cfg, is_train=False),
        exact_8bit=cfg.INPUT.EXACT_8BIT,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        settings=model_settings(cfg),
    )


def people(predictor, image) -> PersonDetections:
    """Whom a predictor finds: everyone, or the one in a box."""
    if not predictor.query_centric:
        return predictor.detect([image])[0]
    return predictor.detect([image], predictor.query(image, [5, 8, 30, 38]))[0]


def assert_same_people(found: PersonDetections, expected: PersonDetections) -> None:
    """Boxes within 1e-3 pixels, scores within 1e-5, 1 - cosine of embeddings within 1e-6."""
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-5)
    assert_same_direction(found.embeddings, expected.embeddings)


def assert_same_direction(found: np.ndarray, expected: np.ndarray) -> None:
    """1 - cosine of rows within 1e-6."""
    assert found.shape == expected.shape
    a, b = (x.astype(np.float64) for x in (found, expected))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    assert np.all(norms > 0)
    assert np.all(1 - (a * b).sum(axis=1) / norms <= 1e-6)
