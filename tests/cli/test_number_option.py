"""Numbers on command lines."""

import argparse

import pytest

from spnet_d2.cli import adapt, autolabel, evaluate, search
from spnet_d2.cli.gallery import make_parser
from spnet_d2.cli.number_option import cosine, finite, fraction, not_negative


@pytest.mark.parametrize("kind", [fraction, cosine, not_negative, finite])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "abc", "", "None", "1,5", "0x1"])
def test_what_is_no_number(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"found {text}$"):
        kind(text)


def test_limits():
    assert [fraction("0"), fraction("1"), cosine("-1"), not_negative("7e9")] == [0, 1, -1, 7e9]
    assert finite("-1e30") == -1e30
    for kind, text, rule in (
        (fraction, "1.001", "must lie between 0 and 1, found 1.001"),
        (cosine, "-1.5", "must lie between -1 and 1, found -1.5"),
        (not_negative, "-1e-9", "must be a number, 0 or more, found -1e-9"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=rule):
            kind(text)


@pytest.mark.parametrize("tool", ["search", "gallery search"])
def test_a_similarity_in_percent_is_told(tool, caplog):
    parse, argv = TOOLS[tool]
    parse([*argv, "--min-similarity=0.99"])
    assert not caplog.text
    assert parse([*argv, "--min-similarity=50"]).min_similarity == 50
    assert "least similarity of 50 leaves out everybody: cosines end at 1" in caplog.text


GALLERY = ["--gallery", "home"]
SEARCH = ["search", *GALLERY, "--query", "q.png", "--output", "out"]
TOOLS = {
    "search": (search.parse_args, ["--query=q", "--box=1,2,3,4", "--gallery=g", "--output=o"]),
    "autolabel": (autolabel.parse_args, ["frames", "--output=o"]),
    "evaluate": (evaluate.parse_args, ["--annotations=a", "--predictions=p", "--protocol=all"]),
    "adapt": (adapt.parse_args, ["frames", "--output=o"]),
    "gallery search": (lambda argv: make_parser().parse_args(argv), SEARCH),
    "gallery calibrate": (lambda argv: make_parser().parse_args(argv), ["calibrate", *GALLERY]),
}


@pytest.mark.parametrize(
    ("tool", "option", "good", "bad"),
    [
        ("search", "--min-similarity", "-1", "nan"),
        ("search", "--scene-threshold", "-3.5", "nan"),
        ("autolabel", "--min-height", "40", "-1"),
        ("autolabel", "--min-iou", "0.3", "30"),
        ("autolabel", "--min-similarity", "0.5", "50"),
        ("evaluate", "--gfn-threshold", "0.2", "nan"),
        ("adapt", "--min-score", "0.2", "20"),
        ("gallery search", "--min-score", "0.5", "nan"),
        ("gallery search", "--min-similarity", "0.5", "inf"),
        ("gallery search", "--false-alarms", "0.01", "nan"),
        ("gallery calibrate", "--min-seconds", "2", "-1"),
    ],
)
def test_thresholds_that_nothing_can_reach(tool, option, good, bad, capsys):
    parse, argv = TOOLS[tool]
    assert getattr(parse([*argv, f"{option}={good}"]), option[2:].replace("-", "_")) == float(good)
    with pytest.raises(SystemExit):
        parse([*argv, f"{option}={bad}"])
    assert f"argument {option}: must" in capsys.readouterr().err
