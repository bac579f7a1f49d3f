"""A training's process finds this package from anywhere, and takes its settings."""

import os
import subprocess

from spnet_d2.utils.own_process import train_command, with_this_package


def test_it_trains_with_this_package_from_any_folder(tmp_path):
    config = tmp_path / "wrong.yaml"
    config.write_text("MODEL: {SPNET: {PATHWAY: sideways}}\n")
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [*train_command(config), "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu"]
    done = subprocess.run(
        command, env=with_this_package(clean), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "PATHWAY is 'sideways', expected one of" in done.stderr


def test_what_was_on_the_path_stays_behind_it():
    path = with_this_package({"PYTHONPATH": "/a"})["PYTHONPATH"].split(os.pathsep)
    assert path[-1] == "/a" and os.path.isdir(os.path.join(path[0], "spnet_d2"))
    assert os.pathsep not in with_this_package({})["PYTHONPATH"]
