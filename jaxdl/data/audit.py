"""Audit of a split: every example is read once, and faults are told by its name.

`open_split` refuses the first fault that it meets; here all are listed, and nothing is kept of an
example but its digest, a thumbnail and its targets.
"""

import concurrent.futures
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl.data.look_alikes import thumbnail
from jaxdl.data.pixels import check_image, check_range
from jaxdl.data.source import Source
from jaxdl.data.split import UNLABELLED, as_numbers
from jaxdl.data.target import Target, targets_of
from jaxdl.errors import UserError

SHOWN = 5
"""Names that one line lists"""
_INPUTS = ("image", "tokens", "source")


class Finding(NamedTuple):
    """One thing that is wrong with the data."""

    kind: str
    """unreadable, left out, files, shape, pixels, label, classes, duplicate or refused"""
    split: str
    """Its role, such as 'train'"""
    name: str
    """Of the example, or empty where it is about the split"""
    message: str
    others: tuple[tuple[str, str], ...] = ()
    """Examples that it is about too, each by role and name"""

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.split, self.name, self.message]))


class Example(NamedTuple):
    """Shapes, digest, thumbnail and targets of an example that can be read."""

    elements: dict[str, tuple[tuple[int, ...], np.dtype]]
    """Shape and type of each array, by key"""
    digest: bytes
    """Of all that a network reads"""
    thumbnail: np.ndarray | None
    low: float
    high: float
    """Of an image's pixels; NaN where one is, both 0 without an image"""
    targets: dict[str, np.ndarray]
    """() or (k,); of a mask (1, 1, k), the numbers that it holds"""


class Audit(NamedTuple):
    """A split that was read from end to end."""

    role: str
    split: str
    """As the config names it"""
    source: Source
    names: list[str]
    examples: dict[int, Example]
    """By number, of those that can be read"""
    targets: dict[str, Target]
    findings: list[Finding]
    notes: list[str]

    def elements(self) -> dict[str, Counter[tuple[tuple[int, ...], np.dtype]]]:
        """Number of examples with an array of a shape and type, by key."""
        counts: dict[str, Counter[Any]] = defaultdict(Counter)
        for example in self.examples.values():
            for key, element in example.elements.items():
                counts[key][element] += 1
        return counts

    def values(self, key: str) -> tuple[list[int], np.ndarray]:
        """The target of a key, of the examples where it has the usual shape, and their numbers."""
        found = {i: e.targets[key] for i, e in self.examples.items() if key in e.targets}
        if not found:
            return [], np.zeros(0)
        if next(iter(found.values())).ndim == 3:
            present = np.unique(np.concatenate([x.ravel() for x in found.values()]))
            return list(found), present.reshape(1, 1, -1)
        usual = Counter(x.shape for x in found.values()).most_common(1)[0][0]
        rows = {i: x for i, x in found.items() if x.shape == usual}
        return list(rows), np.stack(list(rows.values()))


def audit(
    source: Source,
    role: str,
    split: str,
    *,
    num_classes: int | None = None,
    threads: int = 2,
    wrap: Any = lambda numbers: numbers,
) -> Audit:
    """Read every example of a source and list what is wrong with one, or with their images.

    Args:
        source: of the split.
        role: of the split, such as 'train'.
        split: its name in the config.
        num_classes: of `label`, for a source that does not say.
        threads: readers.
        wrap: of the iteration, such as a progress bar.
    """
    findings = [Finding("files", role, "", line) for line in source.faults]
    findings += [Finding("left out", role, name, why) for name, why in source.left_out.items()]
    examples: dict[int, Example] = {}
    names = [source.name(i) for i in range(len(source))]
    if not names:
        findings.append(Finding("refused", role, "", "it holds no example"))
    with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
        read = wrap(pool.map(lambda i: _read(source, i), range(len(source))))
        for i, example in enumerate(read):
            if isinstance(example, str):
                findings.append(Finding("unreadable", role, names[i], example))
            else:
                examples[i] = example
    result = Audit(role, split, source, names, examples, {}, findings, list(source.notes))
    findings += [*_shapes(result), *_pixels(result)]
    known = source.num_classes or len(source.class_names) or num_classes
    columns = {key: result.values(key)[1] for key in _targets(result)}
    vocabulary = source.tokenizer.vocabulary if source.tokenizer else source.vocabulary
    about = (source.targets, known, vocabulary, source.class_names)
    targets = targets_of(columns, True, *about)
    label = columns.get("label")
    if label is not None and label.ndim == 1 and label.dtype.kind in "iu" and not source.targets:
        # a run takes them for classes, negative ones too, which it refuses
        size = known or max(1, int(label.max()) + 1)
        targets["label"] = Target("classes", size, source.class_names)
    return result._replace(targets=targets)


def shape_text(element: tuple[tuple[int, ...], np.dtype]) -> str:
    """Such as 'uint8 32x32x3'."""
    shape, dtype = element
    return f"{dtype} {'x'.join(map(str, shape))}".rstrip()


def few(names: Iterable[str]) -> str:
    """Names, and how many more there are beyond a few."""
    names = list(names)
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def pixels_of(image: np.ndarray) -> np.ndarray:
    """An image of any finite numbers as uint8: floats of [0, 1] times 255, others stretched."""
    if image.dtype == np.uint8:
        return image
    values = np.nan_to_num(image.astype(np.float32), nan=0, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-9)
    return np.round(255 * values).astype(np.uint8)


def _targets(result: Audit) -> list[str]:
    return list(dict.fromkeys(key for e in result.examples.values() for key in e.targets))


def _read(source: Source, index: int) -> Example | str:
    """Facts of an example, or the reason that it cannot be read."""
    try:
        arrays = {k: as_numbers(k, x, "") for k, x in source.example(index).items()}
        return _measured(arrays)
    except Exception as error:  # a decoder raises whatever its format's parser raises
        text = str(error).removeprefix("split '': ") or type(error).__name__
        return text.replace(f"cannot read the image {source.name(index)}: ", "")


def _measured(arrays: Mapping[str, np.ndarray]) -> Example:
    hashed = hashlib.blake2b(digest_size=16)
    for key in _INPUTS:
        if key in arrays:
            array = np.ascontiguousarray(arrays[key])
            hashed.update(f"{key} {array.dtype.str} {array.shape}".encode())
            hashed.update(array.reshape(-1).view(np.uint8))
    image, small, low, high = arrays.get("image"), None, 0.0, 0.0
    if image is not None and image.ndim == 3 and image.size:
        low, high = float(image.min()), float(image.max())
        small = thumbnail(pixels_of(image))
    elements = {key: (array.shape, array.dtype) for key, array in arrays.items()}
    targets = {k: _target(x) for k, x in arrays.items() if k not in UNLABELLED and x.ndim <= 2}
    if "tokens" in arrays:
        targets["tokens"] = np.unique(arrays["tokens"]).reshape(1, 1, -1)
    return Example(elements, hashed.digest(), small, low, high, targets)


def _target(array: np.ndarray) -> np.ndarray:
    return np.unique(array).reshape(1, 1, -1) if array.ndim == 2 else array


def _shapes(result: Audit) -> Iterator[Finding]:
    """Arrays whose shape or type is not that of most examples, and keys that some lack."""
    for key, counts in result.elements().items():
        usual, n = counts.most_common(1)[0]
        lacking = [i for i, e in result.examples.items() if key not in e.elements]
        for i in lacking:
            yield Finding("shape", result.role, result.names[i], f"it has no '{key}'")
        remedy = "; set image_size in the source" if key == "image" else ""
        for element in counts:
            if element != usual:
                wrong = [i for i, e in result.examples.items() if e.elements.get(key) == element]
                names = [result.names[i] for i in wrong]
                yield Finding(
                    "shape",
                    result.role,
                    names[0] if len(names) == 1 else "",
                    f"'{key}' is {shape_text(element)}"
                    + ("" if len(names) == 1 else f" in {len(names):,} examples ({few(names)})")
                    + f", and {shape_text(usual)} in {n:,}{remedy}",
                    tuple((result.role, name) for name in names[1:]),
                )


def _pixels(result: Audit) -> Iterator[Finding]:
    """Images of other axes, types and ranges than a network reads, and images that show nothing."""
    counts = result.elements().get("image")
    if not counts:
        return
    (shape, dtype), _ = counts.most_common(1)[0]
    images = {i: e for i, e in result.examples.items() if e.thumbnail is not None}
    sound = [x for e in images.values() for x in (e.low, e.high) if np.isfinite(x)]
    try:
        check_image(jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype)), "")
        check_range(np.array(sound, dtype if dtype.kind == "f" else np.uint8), "")
    except UserError as error:
        message = str(error).removeprefix("split '': ")
        yield Finding("pixels", result.role, "", message)
    for i, example in images.items():
        if not np.isfinite([example.low, example.high]).all():
            yield Finding("pixels", result.role, result.names[i], "it holds NaN or infinity")
        elif example.low == example.high and shape[0] * shape[1] > 1:
            message = f"every pixel is {example.low:g}: it shows nothing"
            yield Finding("pixels", result.role, result.names[i], message)
