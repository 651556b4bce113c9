"""Configs and command lines with something wrong, drawn at random."""

import copy
import functools
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxdl import config_file, registry

ROOT = Path(__file__).parents[2]

BASES = {
    "cnn.py:digits": 8, "cnn.py:cifar10": 1, "lenet.py:digits": 4, "resnet.py:digits": 1,
    "efficientnet.py:digits": 1, "language.py:help": 2, "segmentation.py:shapes": 2,
    "translation.py:reversal": 2,
}  # fmt: skip
"""Configs of the project, and how often each is mutated: those that trace quickly more often."""

STRINGS = [
    "", " ", "\0", "\n", "a" * 100_000, "../" * 40 + "etc/passwd", "/etc/passwd", "/dev/zero",
    "/dev/full", "/proc/self/mem", "/proc/self/environ", ".", "..", "/", "~", "~root", "a/b",
    "null", "None", "true", "-", "--help", "=", "()", "[", "]", "((((((", "a(", "a(b=", "a(b=c",
    "[,]", "a.b", "(", "*", "(?P<a>", "[z-a]", "\\", "{}", "{0}", "%s%n%n", "${HOME}",
    "$(touch x)", "`touch x`", "'; DROP TABLE runs; --", "\u202e\u0000\u2028", "e\u0301\u0301",
    "\U0001f600", "ﬀ", "０", "\ud800", "\x1b[2J\x1b[31m", "NaN", "inf", "-inf", "1e999", "0x10",
    "1_000", "１２", "1e400 steps", "0 epochs", "-3 epochs", "99999999999999999999 epochs", "nan%",
    "200%", "1e308 examples", "train[:0]", "train[5:2]", "train[::2]", "train[:1e9%]",
    "train+train", "http://127.0.0.1:9/x", "https://[::1", "file:///etc/passwd", "hf:a/b@c:d",
    "os", "this.that", ".relative", "x.py",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 3, 7, 10**3, 10**6, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64,
    -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5, -0.5, 1.5, 1e-300, 1e-45, 1e38, 1e39, 1e308,
    5e-324, float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
OTHERS = [None, True, False, [], {}, [[]], [{}], {"": ""}, {"name": 1}, {"name": "cnn"}, [None]]


def bases() -> list[dict[str, Any]]:
    """The project's own configs as trees, as often as `BASES` says."""
    trees = [
        (config_file.to_dict(config_file.load(str(ROOT / "configs" / spec))), times)
        for spec, times in BASES.items()
    ]
    return [tree for tree, times in trees for _ in range(times)]


def nasty(rng: random.Random, like: Any = None) -> Any:
    """A value that somewhere is wrong; more often than not of the type of what was there."""
    if isinstance(like, bool) or rng.random() < 0.3:
        like = rng.choice([0, "", {}, None])
    if isinstance(like, int | float):
        return rng.choice(NUMBERS)
    if isinstance(like, str):
        return rng.choice(STRINGS)
    if isinstance(like, dict):
        return part(rng, like.get("name"))
    if isinstance(like, list) and like:
        return [nasty(rng, like[0]) for _ in range(rng.choice((0, 1, len(like), len(like))))]
    return copy.deepcopy(rng.choice(OTHERS))


def part(rng: random.Random, name: Any = None) -> dict[str, Any]:
    """Some registered part, mostly of the kind of `name`, with arguments that may be wrong."""
    kinds = [k for k in registry.ROOMS if name in [e.name for e in registry.entries(k)]]
    filled = [k for k in registry.ROOMS if registry.entries(k)]
    kind = rng.choice(kinds if kinds and rng.random() < 0.8 else filled)
    entry = rng.choice(registry.entries(kind))
    args = {}
    for _ in range(rng.choice((0, 1, 1, 2))):
        known = entry.arguments()
        key = rng.choice([*known, *known, *known, "drop_rate", "nonsense"])
        like = known[key].default if key in known else 0
        args[key] = nasty(rng, list(like) if isinstance(like, tuple) else like)
    return {"name": entry.name, "args": args}


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a tree, itself left out."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def at(tree: Any, path: Iterable) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def plausible(like: Any, rng: random.Random) -> Any:
    """A value of the right type, that may be too much or too little."""
    if isinstance(like, bool):
        return not like
    if isinstance(like, int | float):
        return rng.choice((0, 1, 2, 3, 5, 8, 17, 64, 300, 4096, 0.1, 0.5, 0.99, 1.5, 20.0, 1e-3))
    if isinstance(like, list | tuple):
        return [plausible(x, rng) for x in like][: rng.choice((1, 2, 3, 9))]
    if isinstance(like, str):
        return rng.choice([".*", "backbone/.*", "head", "3 epochs", "7", "same", "batch", "none"])
    return rng.choice((1, 2, 0.5, [2, 2], [1], "kernel", None))


def swapped(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy with a part or two exchanged for others of their kinds, or given other arguments."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2))):
        node = at(tree, rng.choice([p for p in places(tree) if p[-1] == "args"])[:-1])
        kind = next(k for k in registry.ROOMS if node["name"] in names_of(k))
        entry = registry.find(kind, node["name"])
        if rng.random() < 0.5:
            entry = rng.choice(registry.entries(kind))
            node |= {"name": entry.name, "args": {}}
        for key, parameter in entry.arguments().items():
            if rng.random() < 0.4:
                node["args"][key] = plausible(node["args"].get(key, parameter.default), rng)
    for key in ("duration", "seed", "freeze", "layer_decay", "freeze_norms"):
        if rng.random() < 0.05:
            tree[key] = plausible(tree[key], rng)
    for key in ("batch_size", "accumulate"):
        if rng.random() < 0.05:
            tree["data" if key == "batch_size" else "gradient"][key] = rng.choice((1, 8, 16, 4096))
    return tree


@functools.cache
def names_of(kind: str) -> frozenset[str]:
    """What there is of a kind."""
    return frozenset(e.name for e in registry.entries(kind))


def mutated(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy with one thing wrong, or with two or three."""
    if rng.random() < 0.4:
        return swapped(tree, rng)
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = list(places(tree))
        parts = [p for p in paths if isinstance(at(tree, p), dict) and "args" in at(tree, p)]
        *above, key = rng.choice(paths if rng.random() < 0.6 else parts)
        node = at(tree, above)
        match rng.randrange(12):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, dict):
                new = rng.choice([key + "s", key[1:], key.upper(), rng.choice(STRINGS)])
                node[new] = node.pop(key)
            case 2:
                node[key] = copy.deepcopy(at(tree, rng.choice(paths)))
            case 3:
                for _ in range(rng.choice((1, 2, 50))):
                    node[key] = rng.choice(([node[key]], {"name": node[key]}))
            case 4 | 5 | 6 if isinstance(node[key], dict):
                inner = node[key].get("args")
                inner = inner if isinstance(inner, dict) else node[key]
                inner[rng.choice([*inner, "size", "seed", *STRINGS])] = nasty(rng)
            case _:
                node[key] = nasty(rng, node[key])
    return tree


def written(tree: dict[str, Any], rng: random.Random) -> bytes:
    """A mutant as JSON, now and then broken as text."""
    text = json.dumps(mutated(tree, rng), ensure_ascii=rng.random() < 0.9)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.93:
        return data
    at = rng.randrange(len(data))
    match rng.randrange(9):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            return b"\xef\xbb\xbf" + data
        case 3:
            return text.encode("utf-16", "surrogatepass")
        case 4:
            return b'{"seed": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        case 5:
            return b'{"seed": ' + b"9" * 10_000 + b"}"
        case 6:  # a key given twice: the last one holds
            return b'{"seed": -1, ' + data[1:]
        case 7:
            return bytes(rng.randrange(256) for _ in range(200))
        case _:
            return rng.choice([b"", b"[]", b"null", b"1", b'"x"', b"NaN", b"{}", b"{" * 5000])


def shell(value: Any) -> str:
    """A value as someone might type it."""
    return value if isinstance(value, str) else json.dumps(value)


def option(tree: dict[str, Any], rng: random.Random) -> str:
    """`--config.path=value`, the one or the other wrong."""
    path = rng.choice(list(places(tree)))
    value = shell(nasty(rng, at(tree, path)))
    path = [str(key) for key in path]
    path = [key for key in path if key != "args" or rng.random() < 0.1]
    match rng.randrange(6):
        case 0:
            path.append(rng.choice(["x", "0", "-1", "99", "name", "args", rng.choice(STRINGS)]))
        case 1:
            path[rng.randrange(len(path))] = rng.choice(["modle", "0", rng.choice(STRINGS)])
        case 2:
            path = path[:-1] or path
    if rng.random() < 0.2:
        entry = part(rng, path[-1])
        given = ", ".join(f"{k}={shell(v)}" for k, v in entry["args"].items())
        value = f"{entry['name']}({given})"
    return f"--config.{'.'.join(path)}{rng.choice(('=', '=', '=', ' ', ''))}{value}"


VERBS = {
    "train": ["--workdir", "--import", "--print-config"],
    "evaluate": ["--split", "--json", "{run}"],
    "export": ["--publisher", "{run}", "out.safetensors"],
    "report": ["{run}"],
    "summary": ["--image", "--num-classes", "--batch-size", "--depth", "--import", "--json", "cnn"],
    "plot-schedule": ["--out", "--examples"],
    "find-lr": ["--low", "--high", "--steps", "--out"],
    "find-batch-size": ["--fraction", "--share", "--largest"],
    "memory": ["--limit"],
    "trials": ["--vary", "--seeds", "--metric", "--workdir"],
    "--list": ["models", "sources", "res*", "[", "--import"],
    "find-nan": ["--steps", "{run}"],
    "bench": ["--image", "--batch-size", "--precision", "--repeats", "--json", "--compare", "cnn"],
    "profile": ["--steps", "--top", "--out"],
    "probe": ["--seconds", "--clock", "--json", "--quick"],
    "scale": ["--chip", "--devices", "--utilisation", "--network"],
    "": ["--config", "--help", "--workdir", "--version"],
}
"""The options that each verb knows."""
TAKE_CONFIG = {
    *("train", "evaluate", "find-nan", "plot-schedule", "find-lr", "find-batch-size", "memory"),
    *("trials", "profile", "scale"),
}


def line(trees: list[dict[str, Any]], rng: random.Random, sandbox: Path) -> list[str]:
    """A command line with something wrong."""
    verb = rng.choice([*VERBS, "train", "train"])
    tree = rng.choice(trees)
    argv = [verb] if verb else []
    if verb in TAKE_CONFIG and rng.random() < 0.95:
        file = sandbox / "base.json"
        file.write_text(json.dumps(tree))
        argv += ["--config", str(file)]
        argv += [
            w for _ in range(rng.choice((0, 1, 1, 2))) for w in option(tree, rng).split(" ", 1)
        ]
    for _ in range(rng.choice((0, 1, 2, 3))):
        name = rng.choice([*VERBS[verb], rng.choice(list(VERBS.values()))[0]])
        argv.append(name.replace("{run}", str(sandbox / "ruin")))
        if rng.random() < 0.8:
            argv.append(shell(nasty(rng)))
    if verb == "trials":
        argv += ["--workdir", "trials"]
    if rng.random() < 0.1:
        rng.shuffle(argv)
    return argv
