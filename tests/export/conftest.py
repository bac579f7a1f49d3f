"""Tiny models and their exports, made once for all processes of a test run: it takes a while."""

import pytest

from .exported import STRUCTURES, export_once


@pytest.fixture(scope="module", params=STRUCTURES)
def exported(request, tmp_path_factory):
    """A tiny model of a structure, and its export."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return export_once(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def detecting_everyone(tmp_path_factory):
    """The same of the model that needs no query."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return export_once("object_centric", tmp_path_factory)
