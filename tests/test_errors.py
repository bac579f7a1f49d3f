"""Whose errors are whose, and how they are told."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spnet_d2.config_reader import ConfigError, read_config
from spnet_d2.data.corrupt_images import CorruptImageError
from spnet_d2.engine.schedule import resolve_schedule
from spnet_d2.errors import errors_in_one_line, is_users, one_line, without_traceback


def caught(function, *args):
    with pytest.raises(Exception) as info:  # noqa: PT011
        function(*args)
    return info.value


def no_schedule():
    cfg = read_config(opts=["SOLVER.EPOCHS", 0, "SOLVER.MAX_ITER", 0])
    resolve_schedule(cfg, 10)


class Failing:
    """A data set whose only entry raises."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "out").touch()
    for folder in (tmp_path / "out", tmp_path / "out" / "inner"):
        error = caught(lambda path: path.mkdir(parents=True, exist_ok=True), folder)
        assert is_users(error) and str(tmp_path / "out") in one_line(error)
    error = caught((tmp_path / "out").mkdir)
    assert one_line(error).endswith("out is there already, and is no folder; name another one.")


def test_links_that_lead_to_themselves(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for function in (lambda path: path.resolve(strict=True), lambda path: path.read_text()):
        error = caught(function, tmp_path / "a")
        assert is_users(error) and str(tmp_path / "a") in one_line(error)
    assert not is_users(RuntimeError("something else"))


def test_the_users_are_those_this_package_explains():
    for error in (
        caught(read_config, "nowhere.yaml"),
        caught(open, "/no/such/file"),
        caught(no_schedule),
        caught(next, iter(DataLoader(Failing(CorruptImageError("a.jpg\nis cut")), num_workers=1))),
    ):
        assert is_users(error)
        assert "\n" not in one_line(error) and "Traceback" not in one_line(error)


def test_memory_that_does_not_suffice_says_what_to_do():
    short = MemoryError("of a picture")
    in_worker = caught(next, iter(DataLoader(Failing(short), num_workers=1)))
    assert "(of a picture)" in one_line(in_worker)
    for error in (caught(np.zeros, 2**55), caught(torch.zeros, 2**50), MemoryError(), in_worker):
        assert is_users(error)
        assert one_line(error).startswith("Memory doesn't suffice (")
        assert one_line(error).endswith("). Take smaller images or batches, or a smaller model.")


def test_faults_of_programs_are_not():
    def ours(error):
        raise error

    for error in (
        caught(int, "x"),
        caught(np.zeros(3).reshape, 2, 2),
        caught(ours, ValueError("of a test")),
        caught(resolve_schedule, None, 3),
        caught(next, iter(DataLoader(Failing(ValueError("of a test")), num_workers=1))),
    ):
        assert not is_users(error)
        with pytest.raises(type(error)), errors_in_one_line("tool"):
            raise error


def test_a_worker_tells_the_error_itself():
    for error in (CorruptImageError("Cannot read a.jpg"), ConfigError("x: 3\ny: 4")):
        found = caught(next, iter(DataLoader(Failing(error), num_workers=1)))
        assert one_line(found) == " ".join(str(error).split())


def test_one_line_and_a_status(capsys):
    with pytest.raises(SystemExit) as status, errors_in_one_line("tool"):
        raise ConfigError("KEY is 3,\nexpected 4.")
    assert status.value.code == 1
    assert capsys.readouterr().err == "tool: KEY is 3, expected 4.\n"


def test_logs_have_one_line_too(caplog):
    log = logging.getLogger("some.log")
    log.addFilter(without_traceback)
    for error in (ConfigError("KEY is 3."), KeyError("x")):
        try:
            raise error
        except Exception:
            log.exception("Exception during training:")
    first, second = caplog.records
    assert first.getMessage() == "Exception during training: KEY is 3." and not first.exc_info
    assert second.exc_info
