"""mkdocs hook: the project's own pages become pages of the site, with links that work there.

The README and its like are read on the page of the project first, so they stay where they are.
Links to a file that is no page (code, a config) become plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
# File of the project -> page of the site.
PAGES = {
    "README.md": "index.md",
    "INSTALL.md": "install.md",
    "GETTING_STARTED.md": "getting_started.md",
    "MODEL_ZOO.md": "model_zoo.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "datasets/README.md": "data.md",
    "datasets/pets09/README.md": "pets09.md",
    "projects_configs/README.md": "configs.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
# The packages of which the site has the reference.
_API = ("", "search", "evaluation", "data", "modeling", "engine", "checkpoint")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
_HTML_SOURCE = re.compile(r'\b(src|srcset)="([^"]+)"')


def on_files(files, config):
    for source, page in PAGES.items():
        if (ROOT / source).is_file():
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "api.md", content=_api_page()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links relative to the source file become links relative to the page."""
    name = page.file.src_uri
    folder = posixpath.dirname(_SOURCES.get(name, f"docs/{name}"))

    def site_link(target: str) -> str | None:
        path = posixpath.normpath(posixpath.join(folder, target))
        page_path = PAGES.get(path) or path.removeprefix("docs/")
        known = path in PAGES or path.startswith("docs/")
        return posixpath.relpath(page_path, posixpath.dirname(name) or ".") if known else None

    def link(match: re.Match) -> str:
        image, text, target, anchor = match.groups(default="")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        _check(folder, target, name)
        found = site_link(target)
        return f"{image}[{text}]({found}{anchor})" if found else text

    def source(match: re.Match) -> str:
        _check(folder, match[2], name)
        return f'{match[1]}="{site_link(match[2]) or match[2]}"'

    return _outside_code(markdown, lambda text: _HTML_SOURCE.sub(source, _LINK.sub(link, text)))


def _outside_code(markdown: str, change) -> str:
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(p if p.startswith("```") else change(p) for p in parts)


def _check(folder: str, target: str, page: str) -> None:
    """A link of the project's pages to a file that isn't there stops the build."""
    if "://" not in target and not (ROOT / folder / target).exists():
        raise FileNotFoundError(f"{page} links to {target}, which is not there.")


def _api_page() -> str:
    """A page with the docstrings of what every package exports."""
    modules = [f"spnet_d2.{name}".rstrip(".") for name in _API]
    return "# API reference\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
