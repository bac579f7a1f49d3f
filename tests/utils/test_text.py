"""Names of any encoding reach terminals and files of any encoding."""

import io
import logging
import os
import sys

import pytest

from spnet_d2.utils.atomic_io import write_text
from spnet_d2.utils.text import make_output_safe, printable

NAME = os.fsdecode(b"photo\xe9.jpg")


def test_printable():
    assert printable(NAME) == r"photo\xe9.jpg"
    assert printable("a\ud800.jpg") == r"a\ud800.jpg"
    assert printable("größe 人.jpg") == "größe 人.jpg"


@pytest.fixture
def restored():
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_terminals(monkeypatch, restored, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding))
    make_output_safe()
    sys.stdout.write(f"{NAME} 人")
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert text.startswith(r"photo\udce9.jpg") and ("人" in text or r"\u4eba" in text)


def test_log_files(tmp_path, restored, capsys):
    make_output_safe()
    handler = logging.FileHandler(tmp_path / "log.txt", encoding="utf-8")
    logger = logging.getLogger("names of files")
    logger.addHandler(handler)
    logger.warning("Skipped: %s", NAME)
    handler.close()
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "Skipped: photo\\xe9.jpg\n"
    assert "Logging error" not in capsys.readouterr().err


def test_text_files(tmp_path):
    write_text(tmp_path / "a.txt", f'"{NAME} ä"')
    assert (tmp_path / "a.txt").read_bytes() == '"photo\\udce9.jpg ä"'.encode()
