"""Names and shapes of a model's tensors in a few letters, the same on every side."""

import hashlib
from collections.abc import Mapping, Sequence


def digest(shapes: Mapping[str, Sequence[int]]) -> str:
    """'62 tensors, 0123456789abcdef': equal where names and shapes are."""
    lines = sorted(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
    hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(lines)} tensors, {hashed[:16]}"
