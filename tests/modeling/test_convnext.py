"""ConvNeXt blocks in pieces against timm's."""

import timm
import torch
from timm.models.convnext import ConvNeXtBlock
from torch.testing import assert_close

from spnet_d2.modeling import convnext
from spnet_d2.modeling.convnext import ChunkedBlock, use_chunked_blocks


def blocks(trunk):
    return [m for m in trunk.modules() if isinstance(m, ConvNeXtBlock)]


def pair(name: str):
    """timm's trunk, and the same one in pieces."""
    torch.manual_seed(0)
    trunks = []
    for _ in range(2):
        trunks.append(timm.create_model(name, features_only=True).eval())
    trunks[1].load_state_dict(trunks[0].state_dict())
    use_chunked_blocks(trunks[1])
    return trunks


def test_maps_are_timms(monkeypatch):
    monkeypatch.setattr(convnext, "_CHUNK", 37)
    plain, chunked = pair("test_convnext")
    assert all(type(b) is ChunkedBlock for b in blocks(chunked))
    x = torch.randn(2, 3, 96, 70)
    with torch.no_grad():
        for found, expected in zip(chunked(x), plain(x), strict=True):
            assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_layer_scale_and_stochastic_depth(monkeypatch):
    """A twin draws as its student does, also without gradients."""
    monkeypatch.setattr(convnext, "_CHUNK", 10)
    block = ConvNeXtBlock(8, ls_init_value=0.5, drop_path=0.5).requires_grad_(False).train()
    x = torch.randn(6, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(1)
    expected = block(x)
    block.__class__ = ChunkedBlock
    torch.manual_seed(1)
    with torch.no_grad():
        found = block(x)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_trains_computes_as_timm_does():
    """Also in the pass without gradients that counts for gradient accumulation."""
    plain, chunked = pair("test_convnext")
    x = torch.randn(1, 3, 64, 64)
    expected = plain.train()(x)
    assert all(map(torch.equal, chunked.train()(x), expected))
    with torch.no_grad():
        assert all(map(torch.equal, chunked(x), expected))


def test_pieces_reach_the_memory(monkeypatch):
    """No tensor is as large as a block's hidden map."""
    monkeypatch.setattr(convnext, "_CHUNK", 64)
    block = ConvNeXtBlock(8)
    block.__class__ = ChunkedBlock
    sizes = []
    block.mlp.act.register_forward_hook(lambda _, __, y: sizes.append(y.numel()))
    with torch.no_grad():
        block.eval()(torch.randn(1, 8, 20, 30))
    assert max(sizes) == 64 * 32 and len(sizes) == 10


def test_blocks_of_convnext_v2_stay_timms():
    trunk = timm.create_model("convnextv2_atto", features_only=True)
    use_chunked_blocks(trunk)
    assert not any(isinstance(b, ChunkedBlock) for b in blocks(trunk))
