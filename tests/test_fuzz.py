"""A little of ``make fuzz``, and that it finds what it is there for."""

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.limits import TooSlowError, time_limit


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_few_inputs_of_every_kind(name, tmp_path):
    assert fuzz.run_kind(KINDS[name], 25, 0, tmp_path) >= 20


@pytest.mark.parametrize(
    "error", [KeyError("width"), TypeError("None"), ValueError("of a library")]
)
def test_errors_that_are_not_the_users_are_found(error, monkeypatch, capsys):
    """With the input that shows them, and how to have it again."""

    def fail(path):
        if len(path.read_bytes()) > 50:
            raise error

    monkeypatch.setattr(fuzz, "prepare_process", lambda: None)
    monkeypatch.setitem(fuzz.KINDS, "images", Kind(KINDS["images"].strategy, fail, 30))
    assert fuzz.main(["images", "--seed", "3"]) == 1
    printed = capsys.readouterr()
    assert "FOUND in images: the input is in" in printed.out
    assert 'python -m tests.fuzz --seed 3 --share 1 "images"' in printed.out
    assert type(error).__name__ in printed.err


def test_the_time_limit_is_no_exception_that_could_be_caught():
    with pytest.raises(TooSlowError), time_limit(0.05):
        while True:
            try:
                sum(range(1000))
            except Exception:
                pass
