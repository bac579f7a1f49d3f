"""The commands and the code of the documentation work."""

import importlib
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser

from spnet_d2.config import add_spnet_config
from spnet_d2.config_reader import merge_settings, read_config
from spnet_d2.search import PersonSearchPredictor
from tests.modeling.tiny import tiny_config, tiny_model

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    "GETTING_STARTED.md",
    "INSTALL.md",
    "MODEL_ZOO.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "datasets/README.md",
    "projects_configs/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[list[str]]:
    """Words of every documented call of one of the project's own scripts."""
    found = []
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if any(re.match(r"(tools|datasets)/\w+\.py", w) for w in words):
                    found.append(words)
    return found


def test_there_are_commands_to_check():
    assert len(commands()) >= 10


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_documented_commands_name_what_exists(words, monkeypatch):
    """Script, its options and every config file and key are real."""
    place = next(i for i, w in enumerate(words) if w.endswith(".py"))
    script = ROOT / words[place]
    assert script.is_file()
    arguments = words[place + 1 :]
    # The options are where the command line is.
    command_line = ROOT / "spnet_d2" / "cli" / script.name
    files = [script, *([command_line] if command_line.is_file() else [])]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    if re.search(r"add_(predictor|exported|two_stage)_options", source):
        source += (ROOT / "spnet_d2/predictors/options.py").read_text(encoding="utf-8")
    for shared in ("scored_files", "footage_options", "gpu_option"):
        if f"add_{shared}" in source:
            source += (ROOT / f"spnet_d2/cli/{shared}.py").read_text(encoding="utf-8")
    if "add_study_options" in source:
        source += (ROOT / "spnet_d2/experiments/run_study.py").read_text(encoding="utf-8")
    known = "default_argument_parser" in source and default_argument_parser().format_help()
    for word in arguments:
        if word.startswith("--"):
            assert f'"{word}"' in source or (known and word in known), word
        if word.startswith("projects_configs/"):
            assert (ROOT / word).is_file(), word
    keys = [(w, arguments[i + 1]) for i, w in enumerate(arguments) if re.match(r"[A-Z]+\.[A-Z]", w)]
    cfg = get_cfg()
    add_spnet_config(cfg)
    for key, value in keys:
        merge_settings(cfg, [key, value])


KEY = re.compile(r"(?:MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST)(?:\.[A-Z][A-Z0-9_]*)+")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_keys_exist(document):
    """In text and code; a key may stand for its group, such as ``MODEL.SPNET.INIT``."""
    cfg = get_cfg()
    add_spnet_config(cfg)
    text = (ROOT / document).read_text(encoding="utf-8")
    for key in sorted(set(KEY.findall(text))):
        node = cfg
        for part in key.split("."):
            assert part in node, f"{document}: {key}"
            node = node[part]


PATH = re.compile(r"`((?:spnet_d2|tests|tools|datasets|projects_configs|docs)/[\w/]*[\w/.]*\w/?)`")
NAME = re.compile(r"`(spnet_d2(?:\.\w+)+)")
# Corpora lie in datasets/, but not in the repository.
CORPUS = re.compile(r"datasets/(?:pets09|cuhk|prw|coco|street|lobby)/")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_files_and_names_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for path in sorted(set(PATH.findall(text))):
        assert (ROOT / path).exists() or CORPUS.match(path), f"{document}: {path}"
    for name in sorted(set(NAME.findall(text))):
        module, _, last = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), last), f"{document}: {name}"


@pytest.mark.parametrize("target", ["demo", "test", "install", "lint"])
def test_documented_make_targets_exist(target):
    text = "".join((ROOT / d).read_text(encoding="utf-8") for d in DOCUMENTS[:3])
    assert f"make {target}" in text or target == "lint"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_links_between_documents():
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
            assert ((ROOT / document).parent / target).exists(), f"{document}: {target}"


@pytest.fixture
def demo_outputs(tmp_path, monkeypatch):
    """What the documented code reads, from a tiny model instead of the demo's."""
    model, cfg = tiny_model(), tiny_config()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    demo, frames = tmp_path / "outputs" / "demo", tmp_path / "datasets" / "pets09" / "frames"
    demo.mkdir(parents=True)
    frames.mkdir(parents=True)
    torch.save({"model": model.state_dict()}, demo / "model_final.pth")
    (demo / "config.yaml").write_text(cfg.dump())
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    cv2.imwrite(str(frames / "frame_000391.jpg"), image)
    monkeypatch.chdir(tmp_path)


def test_documented_code_runs(demo_outputs, capsys):
    namespace = {}
    examples = blocks("GETTING_STARTED.md", "python")
    assert len(examples) == 4
    exec(examples[0], namespace)
    assert namespace["embedding"].shape == (256,)
    for example in examples[1:]:
        exec(example, namespace)
    people = namespace["people"]
    assert people.reid_embeddings.shape == (len(people), 16)
    assert len(people) > 0
    assert namespace["embedding"].shape == (16,)


def test_the_code_of_the_first_page_runs(demo_outputs, capsys, monkeypatch):
    """By a tiny model that finds people in noise; the tutorial's code loads the starter weights."""
    tiny = PersonSearchPredictor(
        read_config("outputs/demo/config.yaml"), "outputs/demo/model_final.pth"
    )
    monkeypatch.setattr(PersonSearchPredictor, "pretrained", {"starter": tiny}.get)
    (example,) = blocks("README.md", "python")
    exec(example, {})
    assert "frame_000391.jpg" in capsys.readouterr().out


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for document in DOCUMENTS:
        if document.startswith("docs/"):
            assert document.removeprefix("docs/") in text, document
