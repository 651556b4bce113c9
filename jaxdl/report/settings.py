"""Set-up of a run: what its config changed, and where it ran."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdl.config import Config, Part
from jaxdl.config_file import in_words
from jaxdl.report import text


def section(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of the manifest, empty where it is missing."""
    found = manifest.get(key)
    return found if isinstance(found, Mapping) else {}


def settings(config: Config) -> list[tuple[str, str]]:
    """(path, value) of every setting that differs from the defaults."""
    defaults = dict(_flat(Config()))
    return [(path, value) for path, value in _flat(config) if defaults.get(path) != value]


def _flat(config: Config) -> list[tuple[str, str]]:
    return [(path, _described(value)) for path, value in _leaves(config)]


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """(path, value) of everything that is not a dataclass of settings."""
    if not dataclasses.is_dataclass(value) or isinstance(value, Part):
        return [(path, value)]
    fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return [row for name, inner in fields for row in _leaves(inner, f"{path}.{name}".lstrip("."))]


def every(config: Config) -> list[tuple[str, str]]:
    """(path, value) of every setting, parts by name and by each of their arguments."""
    return [row for path, value in _leaves(config) for row in _of_part(path, value)]


def _of_part(path: str, value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, Part):
        return [(path, _described(value))]
    inner = [row for name, x in value.args.items() for row in _of_part(f"{path}.{name}", x)]
    return [(path, value.name), *inner]


def _described(value: Any) -> str:
    """A value of the table, a list of it as the command line takes one: without brackets."""
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value)) or "none"
    return in_words(value)


def environment(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(term, figure) of where the run ran; what is unknown is left out."""
    hardware, mesh = section(manifest, "hardware"), section(manifest, "mesh")
    kind = hardware.get("device_kind") or hardware.get("backend")
    backend = f" ({hardware['backend']})" if hardware.get("backend") not in (None, kind) else ""
    devices = f"{hardware.get('devices', 1)} × {kind}{backend}" if kind else None
    terms = {
        "Started": manifest.get("started") and text.moment(manifest["started"]),
        "Devices": devices,
        "Processes": hardware.get("processes"),
        "CPU cores": hardware.get("cpu_count"),
        "Mesh": ", ".join(f"{axis} {size}" for axis, size in mesh.items()),
        "Precision": manifest.get("precision"),
        "Seed": manifest.get("seed"),
        "Commit": section(manifest, "git").get("commit"),
        "Platform": manifest.get("platform"),
        "Python": manifest.get("python"),
        "jaxdl": manifest.get("jaxdl"),
        **section(manifest, "versions"),
    }
    return [(term, str(figure)) for term, figure in terms.items() if figure not in (None, "")]
