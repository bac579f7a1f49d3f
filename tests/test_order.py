"""The order of the files where several processes share them."""

from pathlib import Path

from tests.fixtures.order import LONG, longest_first

ROOT = Path(__file__).resolve().parents[1]


def test_long_files_come_first_then_those_with_most_tests():
    files = ["a.py", "b.py", "b.py", LONG[1], "c.py", "c.py", LONG[0]]
    assert longest_first([f"{name}::test" for name in files]) == [6, 3, 1, 2, 4, 5, 0]


def test_long_files_are_there():
    assert [name for name in LONG if not (ROOT / name).is_file()] == []
