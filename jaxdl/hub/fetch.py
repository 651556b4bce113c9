"""Sources of weights: a local file, the Hugging Face hub, or a URL; cached once fetched."""

import hashlib
import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from jaxdl.errors import UserError

_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")


def fetch(source: str | Path) -> Path:
    """The local file of a source.

    Args:
        source: a path; a Hugging Face id, `owner/name[@revision][:file]`, such as
            `timm/resnet50.a1_in1k`; or an `https://` address. In a file name such as
            `resnet50-0676ba61.pth` the digits are the beginning of its SHA-256, and are checked.

    Raises:
        UserError: the source does not exist or cannot be reached.
    """
    text = str(source)
    if re.match(r"https?://", text):
        return _fetch_address(text)
    if Path(text).is_file():
        return Path(text)
    hub_id = re.fullmatch(r"(?:hf:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w./-]+))?", text)
    looks_local = text.startswith((".", "/", "~")) or Path(text).suffix in _SUFFIXES
    if hub_id and not looks_local:
        return _fetch_from_hub(*hub_id.groups())
    raise UserError(
        f"no file of weights '{text}'; elsewhere they are owner/name of the Hugging Face hub, or "
        "an https:// address"
    )


def split_key(source: str | Path) -> tuple[str, str]:
    """A source without its key, and the key: what 'w.pth#model_ema' has behind its '#', or ''."""
    text = str(source)
    place, sign, key = text.rpartition("#")
    return (place, key) if sign and "/" not in key and not Path(text).is_file() else (text, "")


_SUFFIXES = {".safetensors", ".pth", ".pt", ".th", ".bin", ".npz"}


def cache_directory() -> Path:
    """Cache directory for URLs: $JAXDL_CACHE, or jaxdl in the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("JAXDL_CACHE") or Path(home) / "jaxdl") / "weights"


def _fetch_from_hub(repository: str, revision: str | None, name: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise UserError(
            f"'{repository}' is on the Hugging Face hub: pip install 'jaxdl[hub]'"
        ) from error
    try:
        for file in [name] if name else _FILES:
            try:
                return Path(hf_hub_download(repository, file, revision=revision))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot fetch '{repository}' from the Hugging Face hub: {reason}"
        ) from error
    raise UserError(f"'{repository}' holds no {name or ' or '.join(_FILES)}")


def _fetch_address(address: str) -> Path:
    file = cache_directory() / hashlib.sha256(address.encode()).hexdigest()[:8] / Path(address).name
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, part.open("wb") as out:
            shutil.copyfileobj(answer, out)
        _check_digest(part, file.name)
        part.replace(file)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(f"cannot fetch {address}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _check_digest(file: Path, name: str) -> None:
    promised = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if not promised:
        return
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(promised[1]):
        raise UserError(f"{name} came damaged: its SHA-256 begins with {digest[:8]}")
