"""KEY VALUE settings at the end of a command line."""

import argparse

import pytest

from spnet_d2.utils.settings_option import add_settings_option


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int)
    add_settings_option(parser)
    return parser


def test_pairs(parser):
    assert parser.parse_args([]).opts == []
    args = parser.parse_args(["--every", "2", "SEED", "-1"])
    assert args.every == 2 and args.opts == ["SEED", "-1"]


def test_an_odd_number_of_words(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["SEED"])
    assert "settings are KEY VALUE pairs, found 1 words: ['SEED']" in capsys.readouterr().err


def test_options_may_follow(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="?")
    parser.add_argument("--every", type=int)
    add_settings_option(parser, nargs="*")
    args = parser.parse_intermixed_args(["x", "SEED", "1", "--every", "2"])
    assert args.opts == ["SEED", "1"] and args.every == 2
    assert parser.parse_intermixed_args(["x", "--every", "2"]).opts == []
