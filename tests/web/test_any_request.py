"""Requests of every kind that the API's documentation allows, and others: no server error."""

import threading

import pytest

from spnet_d2.ingestion import GalleryHome
from spnet_d2.web import service as service_module
from spnet_d2.web.app import create_app
from tests.web.conftest import Opened, make_gallery

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(service_module.OpenedPredictor, "again", lambda *_: Opened)
    gallery = make_gallery(tmp_path_factory.mktemp("fuzz"))
    yield create_app(service_module.Service(GalleryHome(gallery), can_add=True))
    patch.undo()


schemathesis.checks.load_all_checks()
checks = (
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
)


def test_no_request_is_a_server_error(app):
    """Of each operation, requests as documented and others."""
    api = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) > 20
    kinds = schemathesis.GenerationMode
    settings = hypothesis.settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for operation in operations:
        for kind in (kinds.POSITIVE, kinds.NEGATIVE):
            try:
                cases = operation.as_strategy(generation_mode=kind)
                settings(hypothesis.given(cases)(_check))()
            except (hypothesis.errors.Unsatisfiable, schemathesis.errors.InvalidSchema):
                # An operation without parameters has no wrong ones.
                assert kind == kinds.NEGATIVE


def _check(case):
    response = case.call()
    case.validate_response(response, checks=checks)
    if response.status_code >= 400:
        detail = response.json()["detail"]
        assert isinstance(detail, str) and "\n" not in detail
    assert threading.active_count() < 60, "threads are left over"
