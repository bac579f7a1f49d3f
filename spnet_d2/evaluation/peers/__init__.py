"""Result files of other person-search projects, converted to predictions of this one."""

from spnet_d2.evaluation.peers.conversion import convert_dump
from spnet_d2.evaluation.peers.dumps import PROJECTS, Dump, read_dump
from spnet_d2.evaluation.peers.errors import DumpError
from spnet_d2.evaluation.peers.image_names import read_image_names

__all__ = ["PROJECTS", "Dump", "DumpError", "convert_dump", "read_dump", "read_image_names"]
