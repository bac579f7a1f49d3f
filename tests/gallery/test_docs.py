"""The code of docs/gallery.md runs."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gallery.md"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    assert names["hits"].ids[0] == 400
    assert len(names["hits"]) == 10
    assert set(names["found"].cameras) == {"entrance"}
    assert capsys.readouterr().out.startswith("2026-05-01T08:06:40.000000000 [ 10.  20.  60. 180.]")
    with names["open_gallery"]("people.gallery") as gallery:
        assert gallery.count() == 880
