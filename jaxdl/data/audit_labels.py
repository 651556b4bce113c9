"""Sanity of labels, by the kind of target: what a loss would read amiss, or nothing could learn."""

from collections.abc import Iterator

import numpy as np

from jaxdl.data.audit import Audit, Finding, few
from jaxdl.data.pixels import check_void
from jaxdl.data.target import SUM_TOLERANCE, Kind, Target
from jaxdl.errors import UserError
from jaxdl.types import PADDING, VOID


def class_name(target: Target, number: int) -> str:
    """The name of a class, or its number."""
    return target.names[number] if number < len(target.names) else str(number)


def class_counts(result: Audit, key: str, target: Target) -> dict[str, int]:
    """Examples of each class; of a mask or a multilabel, those that hold it. Empty for others."""
    size = target.size or 0
    if target.kind == "mask":
        held = [e.targets[key].ravel() for e in result.examples.values() if key in e.targets]
        values = np.concatenate(held) if held else np.zeros(0, int)
    elif target.kind == "multilabel":
        rows = result.values(key)[1]
        return {class_name(target, k): int(rows[:, k].sum()) for k in range(size)}
    elif target.kind == "classes":
        values = result.values(key)[1]
    else:
        return {}
    return {class_name(target, k): int((values == k).sum()) for k in range(size)}


def label_findings(result: Audit, train: Audit) -> Iterator[Finding]:
    """Faults of the targets of a split, each with the examples that it is about.

    Args:
        result: the split.
        train: that of the training examples, whose classes count; `result` itself for these.
    """
    for key, own in result.targets.items():
        target = train.targets.get(key, own)
        for name, message in _wrong(result, key, target):
            yield Finding("label", result.role, name, f"'{key}' {message}")
        if result is train:
            for message in _unlearnable(result, key, target):
                yield Finding("classes", result.role, "", message)


def label_notes(result: Audit, train: Audit) -> Iterator[str]:
    """Classes that an evaluation split does not measure, and very unequal ones."""
    for key, target in train.targets.items():
        counts = class_counts(result, key, target) if key in result.targets else {}
        absent = [name for name, n in counts.items() if not n]
        if absent and result is not train:
            yield f"no example of {few(absent)}"
        most, least = max(counts.values(), default=0), min(counts.values(), default=0)
        if result is train and least and most >= 10 * least and target.kind == "classes":
            rare = min(counts, key=lambda name: counts[name])
            yield f"classes are unequal: {most:,} examples of one, and {least:,} of {rare}"


def _wrong(result: Audit, key: str, target: Target) -> Iterator[tuple[str, str]]:
    """(name of an example, what is wrong with its target)."""
    if target.kind in ("mask", "tokens"):
        for i, example in result.examples.items():
            if key in example.targets:
                message = _wrong_map(example.targets[key].ravel(), target)
                if message:
                    yield result.names[i], message
        return
    numbers, values = result.values(key)
    if target.kind == "numbers" and values.ndim == 2:
        target = target._replace(kind=_usual_kind(values))
    for i, value in zip(numbers, values, strict=True):
        message = _wrong_value(value, target)
        if message:
            yield result.names[i], message


def _usual_kind(rows: np.ndarray) -> Kind:
    """The kind of target that nine tenths of some rows (n, k) are, so that the others are faults.

    A run would take all for numbers because of one fault.
    """
    is_binary = np.isin(rows, (0, 1)).all(axis=1)
    is_soft = (rows >= 0).all(axis=1) & np.isclose(rows.sum(axis=1), 1, atol=SUM_TOLERANCE)
    if is_soft.mean() >= 0.9:
        return "soft"
    return "multilabel" if is_binary.mean() >= 0.9 else "numbers"


def _wrong_map(present: np.ndarray, target: Target) -> str:
    is_mask = target.kind == "mask"
    empty = VOID if is_mask else PADDING
    outside = present[(present < 0) | (present >= (target.size or np.inf))]
    outside = outside[outside != VOID] if is_mask else outside
    if len(outside):
        void = f" and is not void ({VOID})" if is_mask else ""
        return f"holds {few(map(str, outside))}, outside 0..{(target.size or 0) - 1}{void}"
    if (present == empty).all():
        return f"is void ({VOID}) in every pixel" if is_mask else "is padding alone"
    return ""


def _wrong_value(value: np.ndarray, target: Target) -> str:
    if target.kind == "classes":
        size = target.size or 0
        is_class = 0 <= int(value) < size
        return "" if is_class else f"is {int(value)}, outside 0..{size - 1}"
    if not np.isfinite(value).all():
        return "holds NaN or infinity"
    if target.kind == "multilabel" and not np.isin(value, (0, 1)).all():
        return f"holds {few(f'{x:g}' for x in np.atleast_1d(value))}: 0 or 1 are expected"
    if target.kind == "soft" and not (value.min() >= 0 and abs(value.sum() - 1) < SUM_TOLERANCE):
        return f"adds up to {value.sum():g}: probabilities add up to 1"
    return ""


def _unlearnable(train: Audit, key: str, target: Target) -> Iterator[str]:
    """Reasons that nothing could be learnt of a target, or of some of its classes."""
    numbers, values = train.values(key)
    if not len(numbers):
        return
    if target.kind == "mask":
        try:
            check_void(values, "")
        except UserError as error:
            yield str(error).removeprefix("split '': ")
    if target.kind == "numbers" and len(values) > 1 and np.ptp(values, axis=0).min() == 0:
        yield f"'{key}' is the same number in every example"
    counts = class_counts(train, key, target)
    present = [name for name, n in counts.items() if n]
    absent = [name for name, n in counts.items() if not n]
    if target.kind == "multilabel":
        always = [name for name in present if counts[name] == len(values)]
        absent, always = absent if len(present) else [], always if len(values) > 1 else []
        if always:
            yield f"every example is of {few(always)}: there is nothing to tell apart"
    elif len(present) == 1:
        yield f"every example is of class {present[0]}: there is nothing to tell apart"
    if absent and present:
        largest = ""
        if not target.names and target.kind == "classes":
            last = numbers[int(np.argmax(values))]
            largest = f"; the largest label, {values.max()}, is that of {train.names[last]}"
        word = "class" if len(absent) == 1 else "classes"
        yield f"no training example of {word} {few(absent)}{largest}"
