"""XML with line numbers, for error messages."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from spnet_d2.data.formats.convert.source import bad, number


class Element(ET.Element):
    """An element that knows its file and its line there."""

    path: Path
    line: int

    if TYPE_CHECKING:
        # The children that read_xml makes are of this class, too.
        def __iter__(self) -> Iterator["Element"]:
            raise NotImplementedError

        def find(self, path: str, namespaces: dict[str, str] | None = None) -> "Element | None":
            raise NotImplementedError

    def each(self, path: str) -> Iterator["Element"]:
        """The elements below this one on a path such as ``attributes/attribute``."""
        return (child for child in self.iterfind(path) if isinstance(child, Element))

    def need(self, name: str) -> str:
        """An attribute; :class:`SourceError` where it is missing."""
        value = self.get(name)
        if value is None:
            raise bad(self.path, f"<{self.tag}> lacks the attribute {name}", self.line)
        return value

    def number(self, name: str) -> float:
        """An attribute that is a finite number."""
        return number(self.need(name), f"{name} of <{self.tag}>", self.path, self.line)

    def child_number(self, name: str) -> float:
        """A child's text that is a finite number."""
        child = self.find(name)
        if child is None:
            raise bad(self.path, f"<{self.tag}> lacks <{name}>", self.line)
        return number((child.text or "").strip(), f"<{name}>", self.path, child.line)

    def words(self, name: str) -> str:
        """The text of a child, without blanks around it; "" if there is none."""
        return (self.findtext(name) or "").strip()


def read_xml(path: Path) -> Element:
    """
    Parse a file.

    Raises:
        SourceError: not there, no XML, or one that declares entities, which no export needs.
    """
    stack: list[Element] = []
    root: list[Element] = []
    # The encoding is the one the file declares.
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes)
        element.path, element.line = path, parser.CurrentLineNumber
        (stack[-1] if stack else root).append(element)
        stack.append(element)

    def text(data: str) -> None:
        # Mixed content is of no interest: only leaves have a text.
        stack[-1].text = (stack[-1].text or "") + data

    def refuse(name: str, *_) -> None:
        raise bad(path, f"declares the entity {name}", parser.CurrentLineNumber)

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: stack.pop()
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise bad(path, f"cannot be read ({error.strerror})") from error
    except expat.ExpatError as error:
        raise bad(path, f"is not XML ({expat.ErrorString(error.code)})", error.lineno) from error
    return root[0]
