"""Plain data from a file or a shell: JSON, arrays, and what no config holds, whoever wrote it."""

import json
import math
import re
import struct
import tokenize
import zipfile
import zlib
from typing import Any

from jaxdl.errors import UserError

DEEPEST = 40
"""Levels of dicts and lists: a part in a part in a part has 6."""

BROKEN_ARRAY = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(NotImplementedError, SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error),
    *(struct.error, tokenize.TokenError),
)
"""Exceptions that zipfile and NumPy raise on damaged files of arrays."""

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # not in file names, and not in UTF-8


def parse(text: str) -> Any:
    """Parse JSON; `ValueError` where it is not JSON, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too many brackets inside one another") from None


def check_plain(tree: Any, root: str) -> None:
    """Refuse numbers that are not finite, texts that no file could hold, and absurd depths.

    Args:
        tree: dicts, lists, strings and numbers.
        root: what it is called in the message, before the path of the culprit.
    """
    queue = [(root, tree, 0)]
    while queue:
        path, value, depth = queue.pop()
        if depth > DEEPEST:
            raise UserError(f"{path[:80]}...: nested deeper than {DEEPEST} levels")
        if isinstance(value, dict):
            queue += [(f"a key of {path}", key, depth) for key in value]
            queue += [(f"{path}.{key}", inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            queue += [(f"{path}.{i}", inner, depth + 1) for i, inner in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: {value} is not a finite number")
        elif isinstance(value, str) and _UNWRITABLE.search(value):
            raise UserError(f"{path}: '{value}' holds a character that is not of any text")
