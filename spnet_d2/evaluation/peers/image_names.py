"""The order of images in other projects' files: a list of names, or the corpus's own list."""

from pathlib import Path

from scipy.io import loadmat

from spnet_d2.data.formats.corpus import elements, text
from spnet_d2.evaluation.peers.errors import DumpError

_LISTS = ("pool", "img_index_test")


def read_image_names(path: str | Path) -> list[str]:
    """
    Image names in the order of a file.

    Args:
        path: one name a line; or ``pool.mat`` of CUHK-SYSU, ``frame_test.mat`` of PRW.

    Raises:
        DumpError: no such file, or none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise DumpError(f"No list of image names at {path.absolute()}.")
    if path.suffix != ".mat":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DumpError(f"{path} is no text with a name a line ({error}).") from error
        return [line.strip() for line in lines if line.strip()]
    try:
        content = loadmat(path)
        cells = next(content[name] for name in _LISTS if name in content)
        return [text(cell) for cell in elements(cells)]
    # scipy raises a different class for each kind of damage.
    except Exception as error:
        raise DumpError(
            f"{path} is neither CUHK-SYSU's pool.mat nor PRW's frame_test.mat "
            f"({type(error).__name__}: {error})."
        ) from error
