"""Text that has nothing to do with the subject's: the docstrings of Python's own library, at hand everywhere."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

from candling.access import Text

_SHORTEST = 400  # characters
_LONGEST = 4000
_ENOUGH = 120  # texts
_LARGEST = 60_000  # bytes of a file: parsing takes time


def other_texts() -> list[Text]:
    """The long docstrings of the standard library's modules and classes, in the order of their files; some 120.

    They differ a little between versions of Python: the run's record holds their hash.
    """
    texts: list[Text] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if len(texts) >= _ENOUGH or path.stat().st_size > _LARGEST:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError, OSError):  # a patched library: its file is passed over
            continue
        nodes: list[ast.Module | ast.ClassDef] = [
            tree,
            *(node for node in tree.body if isinstance(node, ast.ClassDef)),
        ]
        found = [ast.get_docstring(node) for node in nodes]
        texts += [Text("", doc[:_LONGEST]) for doc in found if doc and len(doc) >= _SHORTEST]
    return texts
