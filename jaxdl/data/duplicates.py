"""Examples that stand in several splits, byte for byte or encoded anew; contradicting labels."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from jaxdl.data.audit import Audit, Example, Finding, few
from jaxdl.data.audit_labels import class_name
from jaxdl.data.look_alikes import look_alikes

Place = tuple[int, int]
"""Number of a split, number of an example in it"""


def duplicates(audits: Sequence[Audit]) -> tuple[list[Finding], dict[str, str]]:
    """Findings, and for each role with examples that occur in it more than once a note.

    Args:
        audits: of the splits, 'train' first.
    """
    groups: dict[bytes, list[Place]] = defaultdict(list)
    for a, result in enumerate(audits):
        for i, example in result.examples.items():
            if example.thumbnail is None or example.low != example.high:
                groups[example.digest].append((a, i))
    several = [group for group in groups.values() if len(group) > 1]
    findings = [f for group in several for f in _contradiction(audits, group)]
    findings += [f for group in several for f in _across(audits, group)]
    for b in range(len(audits)):
        for a in range(b):
            findings += _encoded_anew(audits, a, b)
    notes = {}
    for a, result in enumerate(audits):
        again = sum(max(0, sum(place[0] == a for place in group) - 1) for group in several)
        if again:
            notes[result.role] = f"exact copies of other examples within the split: {again:,}"
    return findings, notes


def label_text(result: Audit, example: Example) -> str:
    """The label of an example in words: its class, its numbers; of a mask the classes in it."""
    value, target = example.targets.get("label"), result.targets.get("label")
    if value is None or target is None:
        return ""
    if target.kind == "classes":
        return class_name(target, int(value)) if int(value) >= 0 else str(value)
    if target.kind == "multilabel":
        return ", ".join(class_name(target, int(k)) for k in np.flatnonzero(value)) or "none"
    if target.kind == "mask":
        classes = [k for k in value.ravel() if 0 <= k < (target.size or 0)]
        return ", ".join(class_name(target, int(k)) for k in classes)
    return ", ".join(f"{x:g}" for x in np.atleast_1d(value))


def _at(audits: Sequence[Audit], place: Place) -> tuple[str, str, str]:
    """Role, name and label of an example."""
    result = audits[place[0]]
    text = label_text(result, result.examples[place[1]])
    return result.role, result.names[place[1]], text


def _contradiction(audits: Sequence[Audit], group: Sequence[Place]) -> Iterator[Finding]:
    described = list(dict.fromkeys(_at(audits, place) for place in group))
    first = described[0]
    others = [one for one in described[1:] if one[2] != first[2]]
    if others:
        role, name, label = first
        rest = few(f"{other} ({text})" for _, other, text in others)
        message = f"it is labelled {label}, and its copy otherwise: {rest}"
        yield Finding("label", role, name, message, tuple((r, n) for r, n, _ in others))


def _across(audits: Sequence[Audit], group: Sequence[Place]) -> Iterator[Finding]:
    for b, i in group:
        role = audits[b].role
        others = [(audits[a].role, audits[a].names[j]) for a, j in group if a < b]
        if others:
            places = few(f"{name} in {other}" for other, name in others)
            message = f"the same example is {places}"
            yield Finding("duplicate", role, audits[b].names[i], message, tuple(others))


def _encoded_anew(audits: Sequence[Audit], a: int, b: int) -> Iterator[Finding]:
    """Pictures of split b that are pictures of split a in other bytes."""

    def thumbnails(split: int) -> tuple[list[int], np.ndarray]:
        wanted = {
            i: e.thumbnail
            for i, e in audits[split].examples.items()
            if e.thumbnail is not None and e.low != e.high
        }
        return list(wanted), np.array(list(wanted.values()))

    here, query = thumbnails(b)
    there, other = thumbnails(a)
    found: dict[int, list[int]] = defaultdict(list)
    for row, column in look_alikes(query, other):
        i, j = here[row], there[column]
        if audits[b].examples[i].digest != audits[a].examples[j].digest:
            found[i].append(j)
    for i, matches in found.items():
        role, name, label = _at(audits, (b, i))
        places = [_at(audits, (a, j)) for j in matches]
        listed = few(
            f"{n} in {r}" + (f" (labelled {text}, this one {label})" if text != label else "")
            for r, n, text in places
        )
        message = f"the same picture, encoded or resized anew, is {listed}"
        yield Finding("duplicate", role, name, message, tuple((r, n) for r, n, _ in places))
