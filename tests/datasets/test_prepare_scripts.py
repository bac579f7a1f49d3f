"""The command-line tools: arguments, results and error messages."""

import shutil

import pytest

from tests.fixtures.scripts import load_script


def script(name):
    return load_script(f"datasets/{name}.py")


def test_prepare_cuhk_sysu(cuhk_sysu_files, tmp_path, capsys):
    folder = shutil.copytree(cuhk_sysu_files, tmp_path / "cuhk")
    script("prepare_cuhk_sysu").main(["--dataset-dir", str(folder), "--val-gallery-size", "3"])
    assert "14 files written" in capsys.readouterr().out
    assert (folder / "coco/trainval.json").is_file() and (folder / "retrieval/val.json").is_file()


def test_prepare_cuhk_sysu_with_chosen_protocols(cuhk_sysu_files, tmp_path):
    """The large galleries need neither be read nor be there."""
    folder = shutil.copytree(cuhk_sysu_files, tmp_path / "cuhk")
    (folder / "annotation/test/train_test/TestG4000.mat").unlink()
    main = script("prepare_cuhk_sysu").main
    main(["--dataset-dir", str(folder), "--val-gallery-size", "3", "--protocols", "G100", "G500"])
    assert {path.stem for path in (folder / "retrieval").iterdir()} == {"G100", "G500", "val"}


def test_galleries_too_large_for_memory_are_left_out(cuhk_sysu_files, monkeypatch, caplog):
    module = script("prepare_cuhk_sysu").cuhk_sysu
    # As large as the official files.
    monkeypatch.setattr(module, "_LEAST_SHARE", 1e-12)
    chosen = module.affordable(cuhk_sysu_files, 3e9)
    assert set(module.PROTOCOLS) - set(chosen) == {"G1000", "G2000", "G4000"}
    assert "G4000 is left out: reading it takes about 12.8 GB of memory, 3.0 GB are" in caplog.text
    assert module.affordable(cuhk_sysu_files, 14e9) == list(module.PROTOCOLS)
    assert script("prepare_cuhk_sysu").free_memory() > 1e6


def test_prepare_prw(prw_files, tmp_path, capsys):
    folder = shutil.copytree(prw_files, tmp_path / "prw")
    arguments = ["--dataset-dir", str(folder), "--same-cam-own-frame", "--ignored-people", "1"]
    script("prepare_prw").main([*arguments, "--val-gallery-size", "1"])
    assert "files written" in capsys.readouterr().out
    assert (folder / "retrieval/same_cam_id.json").is_file()


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("prepare_prw", "--val-gallery-size", "0"),
        ("prepare_prw", "--ignored-people", "-1"),
        ("prepare_cuhk_sysu", "--val-gallery-size", "-1"),
        ("prepare_cuhk_sysu", "--mini-components", "0"),
    ],
)
def test_sizes_that_are_none(name, option, value, capsys):
    with pytest.raises(SystemExit):
        script(name).main([option, value])
    assert f"{option} must be at least" in capsys.readouterr().err


def test_prepare_cocopersons(coco_files, tmp_path, capsys):
    folder = shutil.copytree(coco_files, tmp_path / "coco")
    main = script("prepare_cocopersons").main
    main(["--dataset-dir", str(folder)])
    assert "11 files written" in capsys.readouterr().out
    main(["--dataset-dir", str(folder), "--partition", "all", "--no-noise"])
    assert (folder / "cocoa/train.json").is_file()
    main(["--dataset-dir", str(folder), "--crops", "val"])
    assert "5 crops written" in capsys.readouterr().out
    assert len(list((folder / "crops/val/person").iterdir())) == 5


@pytest.mark.parametrize(
    "name, origin",
    [
        ("prepare_cuhk_sysu", "github.com/ShuangLI59/person_search"),
        ("prepare_prw", "github.com/liangzheng06/PRW-baseline"),
        ("prepare_cocopersons", "cocodataset.org"),
    ],
)
def test_a_missing_corpus_ends_with_a_message(name, origin, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        script(name).main(["--dataset-dir", str(tmp_path / "nowhere")])
    message = capsys.readouterr().err
    assert exit_.value.code == 1 and "Traceback" not in message
    assert str(tmp_path / "nowhere") in message and origin in message
