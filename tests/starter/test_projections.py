"""The re-id projections by least squares, and a checkpoint that gets them."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from spnet_d2.config_files import get_config_file
from spnet_d2.config_reader import read_config
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.starter.projections import RIDGE, Moments, fit_projections, refit

OPTS = ["MODEL.DEVICE", "cpu", "MODEL.SPNET.REID_DIM", "16"]


def test_a_projection_is_the_mean_of_learnt_and_least_squares():
    """Against numpy's ridge regression of standardised features."""
    torch.manual_seed(0)
    x = torch.randn(400, 6, dtype=torch.float64) * torch.tensor([1, 2, 0.5, 1, 3, 1]) + 4
    y = x @ torch.randn(6, 3, dtype=torch.float64) + torch.randn(400, 3, dtype=torch.float64)
    linear, norm = nn.Linear(6, 3), nn.BatchNorm1d(3, affine=False).eval()
    learnt = linear(x.float()).detach().double().numpy()
    sizes = linear.weight.detach().norm(dim=1)
    moments = Moments.none(6, 3)
    for rows in (slice(0, 150), slice(150, None)):
        moments.add(x[rows].float(), y[rows].float())
    refit(linear, norm, moments)

    spread = x.numpy().std(axis=0)
    z = (x.numpy() - x.numpy().mean(axis=0)) / (spread + 1e-3)
    ridge = RIDGE * len(z) * np.eye(6)
    fitted = z @ np.linalg.solve(z.T @ z + ridge, z.T @ (y.numpy() - y.numpy().mean(axis=0)))
    both = [(e - e.mean(axis=0)) / e.std(axis=0) for e in (fitted, learnt)]
    expected = sum(both) / 2
    found = norm(linear(x.float())).detach().numpy()
    np.testing.assert_allclose(found, expected / expected.std(axis=0), atol=2e-3)
    torch.testing.assert_close(linear.weight.detach().norm(dim=1), sizes)


def test_a_checkpoint_gets_projections_that_lie_nearer(tmp_path):
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for i in range(12):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), rng.integers(0, 256, (64, 96, 3)))
        images.append({"id": i, "file_name": f"{i}.png"})
        for k in range(3):
            box = [4 + 30 * k, 6, 20, 50]
            annotations.append({"image_id": i, "bbox": box, "person_id": len(annotations)})
    content = {"images": images, "annotations": annotations}
    (tmp_path / "train.json").write_text(json.dumps(content))
    targets = rng.normal(size=(36, 16)).astype(np.float16)
    np.savez(tmp_path / "targets.npz", embeddings=targets)
    before = PersonSearchPredictor.pretrained("starter", ["MODEL.DEVICE", "cpu"]).model.state_dict()
    cut = {k: v.half() if v.is_floating_point() else v for k, v in before.items()}
    for i in (0, 1):
        for name in ("0.weight", "0.bias", "1.running_mean", "1.running_var"):
            key = f"roi_heads.reid_embedder.projectors.{i}.{name}"
            cut[key] = cut[key][:8].clone()
    torch.save({"model": cut}, tmp_path / "mean.pth")

    out = tmp_path / "out.pth"
    fit_projections("starter/finetune_oc", tmp_path / "mean.pth", tmp_path, out, opts=OPTS)

    after = torch.load(out, weights_only=True)["model"]
    changed = {key for key in cut if not torch.equal(after[key], cut[key])}
    assert changed and all(".reid_embedder.projectors." in key for key in changed)
    assert all(after[key].dtype == cut[key].dtype for key in cut)
    assert _nearness(out, tmp_path, targets) > _nearness(tmp_path / "mean.pth", tmp_path, targets)


def _nearness(weights, folder, targets) -> float:
    cfg = read_config(get_config_file("starter/finetune_oc"), OPTS)
    predictor = PersonSearchPredictor(cfg, weights=str(weights))
    wanted = targets.astype(np.float32) - targets.astype(np.float32).mean(axis=0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    total = []
    for i in range(12):
        image = cv2.imread(str(folder / "images" / f"{i}.png"))
        boxes = [[4 + 30 * k, 6, 24 + 30 * k, 56] for k in range(3)]
        total.append((predictor.embed(image, boxes) * wanted[3 * i : 3 * i + 3]).sum(axis=1))
    return float(np.concatenate(total).mean())


def test_targets_of_another_size_are_refused(tmp_path):
    np.savez(tmp_path / "targets.npz", embeddings=np.ones((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 5\), and MODEL.SPNET.REID_DIM is 16"):
        fit_projections("starter/finetune_oc", "no.pth", tmp_path, tmp_path / "o.pth", opts=OPTS)
