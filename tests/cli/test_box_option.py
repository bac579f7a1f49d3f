"""Boxes on command lines."""

import argparse

import pytest

from spnet_d2.cli.box_option import box, join_box


def test_a_box_may_begin_outside_the_image():
    parser = argparse.ArgumentParser()
    parser.add_argument("--box", type=box, action="append")
    words = ["--box", "-5,10,20,40", "--box=1,2,3,4", "--box", "5,6,7,8"]
    boxes = parser.parse_args(join_box(words)).box
    assert boxes == [(-5, 10, 20, 40), (1, 2, 3, 4), (5, 6, 7, 8)]


def test_a_box_that_lacks_its_numbers(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--box", type=box)
    with pytest.raises(SystemExit):
        parser.parse_args(join_box(["--box"]))
    assert "expected one argument" in capsys.readouterr().err
