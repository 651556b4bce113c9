"""From a source to a split that is checked, of known shapes, and in memory where it fits."""

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.arrays import Columns, from_arrays
from jaxdl.data.class_order import Names, in_order
from jaxdl.data.fingerprint import digest
from jaxdl.data.pixels import check_image, check_range, check_void
from jaxdl.data.source import Source
from jaxdl.data.target import Target, targets_of
from jaxdl.data.tokenizers import Tokenizer
from jaxdl.errors import UserError
from jaxdl.types import VOID

UNLABELLED = ("image", "tokens", "source", "index")
"""Keys of an example that stay where its labels are taken away: any other may tell of them."""

_NUMBERS = (jnp.bool_, jnp.integer, jnp.floating)
_CHUNK = 256  # records that one thread decodes at a time
_RANGE_OF = 8  # float images whose range is checked where a split is not in memory
_LOOKED_AT = 16  # examples whose contents a digest holds


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split.

    Attributes:
        name: as it was asked for, such as 'train[:80%]'.
        source: the records.
        arrays: all examples, decoded, where they fit in memory.
        element_spec: shape and dtype of each array of one example, without the batch axis.
        class_names: the name of every class, or nothing.
        num_classes: of labels; None without any.
        rows: of a subset, the numbers that its examples have in the whole split.
        numbered: examples have their number in the split as `index`, () int32.
        targets: what there is to learn, by key of a batch.
    """

    name: str
    source: Source
    arrays: dict[str, np.ndarray] | None
    element_spec: dict[str, jax.ShapeDtypeStruct]
    class_names: tuple[str, ...]
    num_classes: int | None
    rows: np.ndarray | None = None
    numbered: bool = False
    targets: dict[str, Target] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def vocabulary(self) -> int | None:
        """Tokens there are, padding included; None where examples have none."""
        if self.source.tokenizer:
            return self.source.tokenizer.vocabulary
        # A source of tokens alone may call them classes.
        only_tokens = "tokens" in self.element_spec and "label" not in self.element_spec
        return self.source.vocabulary or (self.num_classes if only_tokens else None)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Text to tokens and back, for a source of texts."""
        return self.source.tokenizer

    @property
    def in_memory(self) -> bool:
        """True if all examples are held decoded; otherwise they are read when needed."""
        return self.arrays is not None

    @property
    def readable(self) -> bool:
        """True if the examples are there, and not only what a run wrote down of them."""
        return getattr(self.source.records, "readable", True)

    @property
    def nbytes(self) -> int:
        """Bytes of all examples, decoded."""
        sizes = (math.prod(s.shape) * s.dtype.itemsize for s in self.element_spec.values())
        return len(self) * sum(sizes)

    @property
    def has_classes(self) -> bool:
        """True if each example has a label that is the number of a class."""
        spec = self.element_spec.get("label")
        return spec is not None and spec.shape == () and spec.dtype == np.int32

    def labels(self, reader: str) -> np.ndarray:
        """The class of every example, (n,) int32, without decoding what is not in memory.

        Args:
            reader: what asks for them, for the message where they cannot be had.

        Raises:
            UserError: there are no classes, or the source does not give them.
        """
        if not self.has_classes:
            shapes = ", ".join(
                f"{k} {s.dtype}{list(s.shape)}" for k, s in self.element_spec.items()
            )
            raise UserError(
                f"{reader} reads the class of each example, and split '{self.name}' holds {shapes}"
            )
        if self.arrays is not None:
            return self.arrays["label"]
        if self.source.labels is None:
            raise UserError(
                f"{reader} reads the class of each example, and the source of split '{self.name}' "
                "cannot give them without decoding all: see config.data.memory"
            )
        labels = np.asarray(self.source.labels())
        _check_labels(labels, self.num_classes, self.name, np.arange(len(labels)))
        return labels.astype(np.int32)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Digests that tell other data apart, which read 16 examples at most.

        Of each array over examples at fixed places, the first and the last among them; and as
        'all labels' over the classes of all examples, where the source has them at hand.
        """
        places = np.unique(np.arange(_LOOKED_AT) * (len(self) - 1) // (_LOOKED_AT - 1))
        found = {name: digest(array) for name, array in self.examples(places).items()}
        if self.has_classes and self.source.holds_labels:
            found["all labels"] = digest(self.labels("a digest"))
        return found

    def chosen(self, rows: np.ndarray) -> "Split":
        """The split of some of the examples: those of the numbers `rows`, in that order."""
        arrays = self.arrays and {name: array[rows] for name, array in self.arrays.items()}
        whole = rows if self.rows is None else self.rows[rows]
        return dataclasses.replace(self, source=self.source.chosen(rows), arrays=arrays, rows=whole)

    def numbers(self, indices: np.ndarray) -> np.ndarray:
        """The numbers of examples in the whole split, where this is a subset of it."""
        return np.asarray(indices) if self.rows is None else self.rows[indices]

    def without_labels(self) -> "Split":
        """The split without labels and all other targets."""
        keep = lambda arrays: {k: x for k, x in arrays.items() if k in UNLABELLED}
        return dataclasses.replace(
            self,
            arrays=self.arrays and keep(self.arrays),
            element_spec=keep(self.element_spec),
            targets=keep(self.targets),
        )

    def with_numbers(self) -> "Split":
        """The split with each example's number, from 0, as `index`."""
        number = np.arange(len(self), dtype=np.int32)
        return dataclasses.replace(
            self,
            arrays=self.arrays and self.arrays | {"index": number},
            element_spec=self.element_spec | {"index": jax.ShapeDtypeStruct((), np.int32)},
            numbered=True,
        )

    def examples(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples by number: arrays whose leading axis is as long as `indices`."""
        if self.arrays is not None:
            return {name: np.take(array, indices, axis=0) for name, array in self.arrays.items()}
        records = self.source.read(indices)
        columns = {"index": np.asarray(indices, np.int32)} if self.numbered else {}
        for name, spec in self.element_spec.items():
            if name in columns:
                continue
            values = [as_numbers(name, record.get(name), self.name) for record in records]
            for i, value in zip(self.numbers(indices), values, strict=True):
                if value.shape != spec.shape:
                    raise UserError(_misfit(self.name, int(i), name, value.shape, spec.shape))
            columns[name] = np.stack(values)
        numbers = self.numbers(indices)
        return _canonical(columns, self.element_spec, self.num_classes, self.name, numbers)


def open_split(
    build: Callable[[str], Any],
    split: str,
    *,
    memory: int,
    num_classes: int | None = None,
    threads: int = 2,
    subset: Callable[[Split], np.ndarray] | None = None,
    labels: bool = True,
    names: Names | None = None,
) -> Split:
    """Open a split, check it, and decode it once if it fits in memory.

    Args:
        build: a source's builder: gives a `Source` or a dict of arrays for the name of a split.
        split: the name.
        memory: bytes that a split may take decoded; a larger one is read whenever needed.
        num_classes: that of the training split, for a source that does not say. Where nobody
            says, it is the largest label + 1; void pixels of segmentation masks have none.
        threads: readers while decoding.
        subset: gives the numbers of the examples to keep, of the split that it is given. What it
            leaves out is not decoded, unless the labels it reads can be had in no other way.
        labels: false leaves labels and all other targets out, for the subset too.
        names: of the classes of a run, by target, in whose order labels are given: see
            `class_order.in_order`.

    Raises:
        UserError: an empty split, a label outside [0, num_classes), records of different shapes.
    """
    source = build(split)
    if isinstance(source, Mapping):
        source = from_arrays(source)
    if not isinstance(source, Source):
        kind = type(source).__name__
        raise UserError(f"a source gives a Source or a dict of arrays, not a {kind}")
    if source.faults:
        raise UserError("; ".join(source.faults))
    if len(source) == 0:
        raise UserError(f"split '{split}' is empty")
    source = in_order(source, names or {})
    first = {name: as_numbers(name, value, split) for name, value in source[0].items()}
    spec = {name: jax.ShapeDtypeStruct(a.shape, _dtype(name, a)) for name, a in first.items()}
    _check_spec(spec, split)
    spec = {name: s for name, s in spec.items() if labels or name in UNLABELLED}
    num_classes = source.num_classes or len(source.class_names) or num_classes
    opened = Split(split, source, None, spec, source.class_names, num_classes)
    in_columns = isinstance(source.records, Columns)
    if subset and not in_columns and (source.labels or opened.nbytes > memory):
        opened, subset = _chosen_early(opened, subset), None
        num_classes = opened.num_classes
    if in_columns:
        columns = {
            name: array.reshape(len(source), *spec[name].shape)
            for name, array in source.records.arrays.items()
            if name in spec
        }
        arrays = _canonical(columns, spec, num_classes, split, np.arange(len(source)))
    elif opened.nbytes <= memory:
        arrays = _decode(opened, threads)
    else:
        arrays = None
    if "image" in spec:
        check_range(_some_images(opened) if arrays is None else arrays["image"], split)
    if num_classes is None and _has_classes(spec):
        if arrays is None:
            raise UserError(f"split '{split}' is too large to count its classes: its source must")
        label = arrays["label"]
        check_void(label, split)
        num_classes = int(label.max(initial=-1, where=(label != VOID) | (label.ndim == 1))) + 1
    some = {name: first[name][None] for name in spec} if arrays is None else arrays
    sized = dataclasses.replace(opened, num_classes=num_classes)
    about = (source.targets, num_classes, sized.vocabulary, source.class_names)
    targets = targets_of(some, arrays is not None, *about)
    opened = dataclasses.replace(opened, arrays=arrays, num_classes=num_classes, targets=targets)
    return opened.chosen(subset(opened)) if subset else opened


def _some_images(split: Split) -> np.ndarray:
    """Images at a few places of a split that is not in memory, if their range is to be checked."""
    count = _RANGE_OF if jnp.issubdtype(split.element_spec["image"].dtype, jnp.floating) else 1
    places = np.linspace(0, len(split) - 1, min(count, len(split)))
    return split.examples(places.astype(int))["image"]


def _chosen_early(split: Split, subset: Callable[[Split], np.ndarray]) -> Split:
    """A subset of a split that is not decoded; its classes are those of the whole split."""
    if split.num_classes is None and split.has_classes and split.source.labels:
        count = int(split.labels("a source").max()) + 1
        split = dataclasses.replace(split, num_classes=count)
    return split.chosen(subset(split))


def _decode(split: Split, threads: int) -> dict[str, np.ndarray]:
    """All examples of a split, in order."""
    n = len(split)
    arrays = {k: np.empty((n, *s.shape), s.dtype) for k, s in split.element_spec.items()}

    def fill(start: int) -> None:
        rows = np.arange(start, min(start + _CHUNK, n))
        for name, block in split.examples(rows).items():
            arrays[name][rows] = block

    with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(fill, range(0, n, _CHUNK)))
    return arrays


def as_numbers(name: str, value: Any, split: str) -> np.ndarray:
    """A feature of one example as an array of numbers; an image always has channels."""
    array = np.asarray(value)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in _NUMBERS):
        what = "missing from a record" if value is None else f"of type {array.dtype}"
        raise UserError(f"split '{split}': '{name}' is {what}, and a batch holds only numbers")
    return array[..., None] if name == "image" and array.ndim == 2 else array


def _dtype(name: str, array: np.ndarray) -> np.dtype:
    """The type that JAX computes with: int32 for labels, no 64 bits unless they are enabled."""
    if name == "label" and array.dtype.kind in "iu":
        return np.dtype(np.int32)
    return jax.dtypes.canonicalize_dtype(array.dtype)


def _has_classes(spec: Mapping[str, jax.ShapeDtypeStruct]) -> bool:
    """True if labels are class numbers: one per example, or one per pixel."""
    return "label" in spec and len(spec["label"].shape) != 1 and spec["label"].dtype == np.int32


def _check_spec(spec: Mapping[str, jax.ShapeDtypeStruct], split: str) -> None:
    for name, use in {"mask": "marks padding", "index": "numbers examples"}.items():
        if name in spec:
            raise UserError(f"split '{split}': '{name}' {use}, so a feature needs another name")
    for name, one in spec.items():
        if 0 in one.shape:
            raise UserError(f"split '{split}': '{name}' has shape {one.shape}, which holds nothing")
    if "image" in spec:
        check_image(spec["image"], split)
    shape = spec["label"].shape if "label" in spec else ()
    if shape == (1,):
        raise UserError(f"split '{split}': 'label' has shape (n, 1); it must be (n,)")
    if len(shape) > 2:
        raise UserError(
            f"split '{split}': 'label' has shape {('n', *shape)}; a map of labels is (n, h, w)"
        )
    if len(shape) == 2 and "image" in spec and spec["image"].shape[:2] != shape:
        size, expected = spec["image"].shape[:2], shape
        raise UserError(
            f"split '{split}': an image of {size} has a segmentation mask of {expected}"
        )


def _canonical(
    columns: Mapping[str, np.ndarray],
    spec: Mapping[str, jax.ShapeDtypeStruct],
    num_classes: int | None,
    split: str,
    indices: np.ndarray,
) -> dict[str, np.ndarray]:
    """Examples in the types of `spec`, their labels checked."""
    for name, column in columns.items():
        if _dtype(name, column) != spec[name].dtype:
            found = f"{column.dtype} in some records and {spec[name].dtype} in the first"
            raise UserError(f"split '{split}': '{name}' is {found}")
    # before the cast, which would fold a label of 2**32 onto 0
    if _has_classes(spec):
        _check_labels(columns["label"], num_classes, split, indices)
    return {name: c.astype(spec[name].dtype, copy=False) for name, c in columns.items()}


def _check_labels(
    label: np.ndarray, num_classes: int | None, split: str, indices: np.ndarray
) -> None:
    limit = np.iinfo(np.int32).max if num_classes is None else num_classes
    is_map = label.ndim > 1
    outside = ((label < 0) | (label >= limit)) & ~(is_map & (label == VOID))
    if outside.any():
        first = np.unravel_index(np.argmax(outside), label.shape)
        beside = f" and is not void ({VOID})" if is_map else ""
        raise UserError(
            f"split '{split}', record {indices[first[0]]}: label {label[first]} is outside "
            f"0..{limit - 1}{beside}"
        )


def _misfit(
    split: str, record: int, name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> str:
    remedy = "; set image_size in the source" if name == "image" else ""
    return (
        f"split '{split}', record {record}: '{name}' has shape {shape}, "
        f"and record 0 has {expected}{remedy}"
    )
