"""The files beside the code that ship with it: shims, examples and cases of `runtimes/`.

In a wheel they are inside the package; in a checkout, installed with `pip install -e`, they are where they
are edited.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent
_IN_A_WHEEL: Final = _PACKAGE / "runtimes"
_IN_A_CHECKOUT: Final = _PACKAGE.parent.parent / "runtimes"


def runtimes() -> Path:
    """The folder with a folder for each language."""
    return _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else _IN_A_CHECKOUT
