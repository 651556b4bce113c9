"""Check of a config's data without training: every split audited, compared, sampled."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import registry
from jaxdl.assemble import assemble, import_user_module
from jaxdl.checks import check
from jaxdl.config import Config, Part, held_of
from jaxdl.data.arrays import from_arrays
from jaxdl.data.audit import Audit, Finding, audit, pixels_of, shape_text
from jaxdl.data.audit_labels import class_counts, class_name, label_findings, label_notes
from jaxdl.data.duplicates import duplicates, label_text
from jaxdl.data.source import Source
from jaxdl.data.split import Split, as_numbers
from jaxdl.data.subset import subset_of
from jaxdl.errors import SplitError, UserError, at
from jaxdl.held import Asked, asked
from jaxdl.objectives.base import augmentation

SAMPLES, AUGMENTED, PAIRS = 12, 3, 12
"""Examples on the page, augmentations of each, and pairs of duplicates"""


class Sample(NamedTuple):
    """A training example before and after augmentation."""

    name: str
    label: str
    image: np.ndarray
    augmented: list[tuple[np.ndarray, str]]
    """Images, and what they are labelled with where that is a mixture"""


class Pair(NamedTuple):
    """Two pictures that a finding calls one."""

    names: tuple[str, str]
    images: tuple[np.ndarray, np.ndarray]


class DataCheck(NamedTuple):
    """Counts, findings and samples of the data of a config."""

    audits: list[Audit]
    findings: list[Finding]
    notes: list[str]
    samples: list[Sample]
    pairs: list[Pair]
    augment: list[str]
    """Names of the augmentations"""

    def to_json(self) -> dict[str, Any]:
        """Splits by role, findings, notes."""
        return {
            "splits": {result.role: facts(result) for result in self.audits},
            "findings": [
                {**one._asdict(), "others": [list(other) for other in one.others]}
                for one in self.findings
            ],
            "notes": self.notes,
        }


def facts(result: Audit) -> dict[str, Any]:
    """Counts of a split: examples, those that can be read, arrays, examples of each class."""
    return {
        "split": result.split,
        "examples": len(result.names),
        "readable": len(result.examples),
        "elements": {
            key: {shape_text(element): n for element, n in counts.most_common()}
            for key, counts in result.elements().items()
        },
        "targets": {key: str(target) for key, target in result.targets.items()},
        "classes": {
            key: counts
            for key, target in result.targets.items()
            if (counts := class_counts(result, key, target))
        },
    }


def check_data(
    config: Config, wrap: Callable[[str, int, Any], Any] = lambda *x: x[-1]
) -> DataCheck:
    """Read every example of the splits of a config.

    Args:
        config: of a run.
        wrap: (role, number of examples, iterator) -> iterator, such as a progress bar.

    Raises:
        UserError: the config is wrong, a split is not there, or no split can be opened.
    """
    for name in config.imports:
        import_user_module(name)
    parts = check(config)
    audits: list[Audit] = []
    findings: list[Finding] = []
    repeated = _repeated(config)
    for role in ("train", *held_of(config)):
        if role in repeated:
            continue
        wanted = asked(config, parts, role)
        try:
            with at(f"config.{wanted.field}", SplitError):
                source = _source(config, wanted)
        except UserError as error:
            if role == "train" or isinstance(error.__cause__, SplitError):
                raise
            findings.append(Finding("refused", role, "", str(error)))
            continue
        first = audits[0].targets.get("label") if audits else None
        audits.append(
            audit(
                source,
                role,
                wanted.split,
                num_classes=first.size if first and first.kind in ("classes", "mask") else None,
                threads=config.data.threads,
                wrap=functools.partial(wrap, role, len(source)),
            )
        )
    train = audits[0]
    copies, copied = duplicates(audits)
    for result in audits:
        findings += [*result.findings, *label_findings(result, train)]
    findings += copies
    findings += [
        Finding("duplicate", role, "", f"it is the training split, '{config.data.train}'")
        for role, first in repeated.items()
        if first == "train"
    ]
    if not findings:
        try:
            assemble(config)
        except UserError as error:
            findings.append(Finding("refused", "", "", f"training is refused: {error}"))
    notes = [f"{r.role}: {line}" for r in audits for line in [*r.notes, *label_notes(r, train)]]
    notes += [f"{role}: {line}" for role, line in copied.items()]
    notes += [f"{b}: it is the same as {a}" for b, a in repeated.items() if a != "train"]
    if config.data.streams:
        names = ", ".join(config.data.streams)
        notes.append(f"the streams {names} are not checked, only the main one")
    names = [part.name for part in config.augment]
    samples = _samples(config, parts, train)
    return DataCheck(audits, findings, notes, samples, _pairs(audits, copies), names)


def _source(config: Config, wanted: Asked) -> Source:
    """The source of a split, of the examples that its subset keeps."""
    source = wanted.build(wanted.split)
    if isinstance(source, Mapping):
        source = from_arrays(source)
    if not isinstance(source, Source):
        kind = type(source).__name__
        raise UserError(f"a source gives a Source or a dict of arrays, not a {kind}")
    if wanted.subset is None or not len(source):
        return source
    num_classes = source.num_classes or len(source.class_names) or None
    arrays = {key: as_numbers(key, x, wanted.split) for key, x in source[0].items()}
    spec = {key: jax.ShapeDtypeStruct(x.shape, _dtype(x)) for key, x in arrays.items()}
    split = Split(wanted.split, source, None, spec, source.class_names, num_classes)
    return source.chosen(subset_of(wanted.subset, config.seed)(split))


def _dtype(array: np.ndarray) -> np.dtype:
    return np.dtype(np.int32) if array.dtype.kind in "iu" else array.dtype


def _repeated(config: Config) -> dict[str, str]:
    """Roles that name the split of an earlier one, with that."""

    def identity(role: str) -> tuple[Part, str, Part | None]:
        own = held_of(config).get(role)
        named = config.evaluation.splits.get(role)
        source = (named and named.source) or config.data.source
        subset = config.data.subset if role == "train" else named and named.subset
        return source, own.split if own else config.data.train, subset

    first: list[str] = []
    repeated = {}
    for role in ("train", *held_of(config)):
        same = next((other for other in first if identity(other) == identity(role)), None)
        if same is None:
            first.append(role)
        else:
            repeated[role] = same
    return repeated


def _samples(config: Config, parts: registry.Parts, train: Audit) -> list[Sample]:
    """Training images of every class in turn, with a few of their augmentations."""
    counts = train.elements().get("image")
    usual = counts.most_common(1)[0][0] if counts else None
    fitting = [
        i
        for i, example in train.examples.items()
        if usual and example.thumbnail is not None and example.elements["image"] == usual
    ]
    chosen = _spread(fitting, [label_text(train, train.examples[i]) for i in fitting])
    if not chosen:
        return []
    records = [train.source.example(i) for i in chosen]
    shared = [key for key, n in Counter(k for r in records for k in r).items() if n == len(records)]
    batch = {key: np.stack([as_numbers(key, r[key], "") for r in records]) for key in shared}
    if "label" in batch and batch["label"].dtype.kind in "iu":
        batch["label"] = batch["label"].astype(np.int32)
    apply = jax.jit(augmentation(parts.many("augment")))
    keys = jax.random.split(jax.random.key(config.seed), AUGMENTED if config.augment else 0)
    batches = [jax.tree.map(np.asarray, apply(key, batch)) for key in keys]
    return [
        Sample(
            train.names[i],
            label_text(train, train.examples[i]),
            pixels_of(batch["image"][row]),
            [(pixels_of(one["image"][row]), _mixture(train, one, row)) for one in batches],
        )
        for row, i in enumerate(chosen)
    ]


def _spread(numbers: list[int], labels: list[str]) -> list[int]:
    """Up to `SAMPLES` examples, of each label in turn."""
    turns: Counter[str] = Counter()
    order = []
    for number, label in zip(numbers, labels, strict=True):
        order.append((turns[label], label, number))
        turns[label] += 1
    return [number for *_, number in sorted(order)[:SAMPLES]]


def _mixture(train: Audit, batch: Mapping[str, np.ndarray], row: int) -> str:
    target = train.targets.get("label")
    if "mixed_label" not in batch or target is None or batch["label"].ndim != 1:
        return ""
    fraction = float(batch["lam"][row])
    first, second = (class_name(target, int(batch[k][row])) for k in ("label", "mixed_label"))
    return f"{100 * fraction:.0f}% {first}, {100 - 100 * fraction:.0f}% {second}"


def _pairs(audits: list[Audit], findings: list[Finding]) -> list[Pair]:
    """The pictures that some findings are about, each beside the first one that it repeats."""
    place = {(r.role, name): (r, i) for r in audits for i, name in enumerate(r.names)}
    pairs = []
    for finding in findings:
        if len(pairs) == PAIRS or not finding.others:
            continue
        (a, i), (b, j) = place[finding.split, finding.name], place[finding.others[0]]
        if a.examples[i].thumbnail is not None and b.examples[j].thumbnail is not None:
            images = [
                pixels_of(np.asarray(r.source.example(n)["image"])) for r, n in ((a, i), (b, j))
            ]
            with_axis = [x[..., None] if x.ndim == 2 else x for x in images]
            names = (f"{a.role}: {a.names[i]}", f"{b.role}: {b.names[j]}")
            pairs.append(Pair(names, (with_axis[0], with_axis[1])))
    return pairs
