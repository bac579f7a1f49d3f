"""The benchmark of the pathways runs, and says what it measured."""

import json

import pytest

from tests.scripts import load_script


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/benchmark_pathways.py")


def test_numbers(tool, tmp_path, capsys):
    output = tmp_path / "benchmark.json"
    options = "--trunk test_convnext --size 64 --people 2 --steps 2 --queries 20 --device cpu"
    settings = "MODEL.SPNET.EMBED_DIM 16 MODEL.SPNET.REID_DIM 16 MODEL.SPNET.REID.QUEUE_SIZE 64"
    tool.main([*options.split(), "--output", str(output), *settings.split()])
    result = json.loads(output.read_text())
    for pathway in ("OC", "QC"):
        seconds = result["training"][pathway]
        # Of medians, the whole is only about the sum of the parts.
        parts = [seconds[name] for name in ("forward", "backward", "optimiser")]
        assert min(parts) > 0
        assert seconds["step"] == pytest.approx(sum(parts), rel=0.5)
        assert seconds["re-id boxes"] >= 16
    assert result["ratio"] > 0
    assert result["inference"]["image_with_queries"] > 0
    printed = capsys.readouterr().out
    assert f"{result['ratio']:.3f}" in printed and "20 queries" in printed


@pytest.mark.parametrize("argument", ["--size 0", "MODEL.SPNET.EMBED_DIM"])
def test_bad_arguments(tool, argument):
    with pytest.raises(SystemExit):
        tool.main(argument.split())
