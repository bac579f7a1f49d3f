"""A case as one ZIP that needs neither this program nor a network: JSON, CSV, crops, a page."""

import csv
import io
import zipfile
from base64 import b64encode
from html import escape

from .cases import Cases
from .schemas import Case, Sighting

_COLUMNS = (
    "decision", "camera", "time", "source", "frame", "box", "similarity", "probability", "note",
    "picture",
)  # fmt: skip
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
ul {{ list-style: none; padding: 0; display: grid; gap: 1rem;
      grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }}
img {{ width: 100%; height: 12rem; object-fit: contain; background: #8882; }}
p {{ white-space: pre-wrap; }}
small {{ display: block; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
<p>Exported {exported}. Similarities say how alike people look, not who they are.</p>
<p>{notes}</p>
{sections}
</html>
"""


def export_case(cases: Cases, case_id: str, exported: str) -> bytes:
    """
    The ZIP's bytes.

    Args:
        cases: those of the gallery.
        case_id: one of them.
        exported: when and by whom, for the page.

    Raises:
        NoCaseError: there is none.
    """
    case = cases.get(case_id)
    names = [*(q.picture for q in case.queries), *(s.picture for s in case.sightings)]
    pictures = {name: cases.picture(case_id, name) for name in names if name is not None}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("case.json", case.model_dump_json(indent=1))
        archive.writestr("sightings.csv", _csv(case))
        archive.writestr("index.html", _page(case, pictures, exported))
        for name, data in pictures.items():
            # JPEG gains nothing by packing.
            archive.writestr(f"pictures/{name}", data, zipfile.ZIP_STORED)
    return buffer.getvalue()


def _csv(case: Case) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for sighting in _ordered(case):
        row = sighting.model_dump(mode="json")
        row["box"] = " ".join(f"{v:g}" for v in sighting.box)
        writer.writerow([_cell(row[column]) for column in _COLUMNS])
    return text.getvalue()


def _cell(value: object) -> object:
    # Spreadsheets run a text that begins so as a formula.
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky else value


def _ordered(case: Case) -> list[Sighting]:
    """Confirmed ones first, each kind by time; those of unknown time last."""
    kinds = {"confirmed": 0, "open": 1, "rejected": 2}
    return sorted(
        case.sightings,
        key=lambda s: (kinds[s.decision], s.time is None, s.time.timestamp() if s.time else 0),
    )


def _page(case: Case, pictures: dict[str, bytes], exported: str) -> str:
    ordered = _ordered(case)
    queries = [_figure(q.picture, [f"query {q.number}"], pictures) for q in case.queries]
    sections = _section("Searched for", queries)
    for decision in ("confirmed", "open", "rejected"):
        figures = [_sighting(s, pictures) for s in ordered if s.decision == decision]
        sections += _section(decision.capitalize(), figures)
    return _PAGE.format(
        title=escape(case.name),
        exported=escape(exported),
        notes=escape(case.notes),
        sections=sections,
    )


def _section(title: str, figures: list[str]) -> str:
    if not figures:
        return ""
    return f"<h2>{title} ({len(figures)})</h2>\n<ul>\n" + "\n".join(figures) + "\n</ul>\n"


def _sighting(sighting: Sighting, pictures: dict[str, bytes]) -> str:
    place = sighting.position or f"frame {sighting.frame}"
    time = sighting.time.isoformat(timespec="seconds") if sighting.time else "time unknown"
    lines = [f"{sighting.camera or 'no camera'}, {time}", f"{sighting.source}, {place}"]
    if sighting.similarity is not None:
        lines.append(f"similarity {sighting.similarity:.3f}")
    return _figure(sighting.picture, [*lines, sighting.note], pictures)


def _figure(picture: str | None, lines: list[str], pictures: dict[str, bytes]) -> str:
    image = ""
    if picture is not None:
        data = b64encode(pictures[picture]).decode()
        image = f'<img alt="{escape(lines[0])}" src="data:image/jpeg;base64,{data}">'
    texts = "".join(f"<small>{escape(line)}</small>" for line in lines if line)
    return f"<li>{image}{texts}</li>"
