"""`jaxdl predict`."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from jaxdl.errors import UserError
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import count, prepare_jax, writing

UNREAD = 1
"""Exit status where some files could not be read, and the others were predicted."""


@verb(
    option("run", help="a run directory; RUN@latest, RUN@raw or RUN@STEP for other weights"),
    option("inputs", nargs="*", type=Path, metavar="FILE|FOLDER", help="images; texts to go on"),
    option("--top-k", type=count, metavar="K", help="classes of each image; default: 3"),
    option("--output", type=Path, metavar="FOLDER", help="of masks; default: masks"),
    option("--text", action="append", default=[], metavar="PROMPT", help="instead of a file"),
    option("--length", type=count, metavar="N", help="tokens to write; default: as many as fit"),
    option("--json", action="store_true", help="print a JSON object a line"),
)
def predict(options: Namespace) -> int:
    """Predict the classes or numbers of new images, their masks, or how a text goes on.

    The run directory is enough: its training data need not be there. Images are turned upright,
    resized and cut as the run's source does it. Segmentation writes a PNG for each image, whose
    pixels are class numbers. A file that cannot be read is named, the others are predicted, and the
    exit status is 1.
    """
    prepare_jax()
    from jaxdl.loaded import load_run

    run = load_run(*_run_and_weights(options.run))
    if run.plan.unit == "token":
        _refuse(options, "top_k", "output", why="this run writes text")
        return _write(run, options)
    _refuse(options, "text", "length", why="this run reads images")
    if run.plan.unit == "example":
        _refuse(options, "output", why="this run gives an image one class, and no mask")
        if run.plan.target.kind == "numbers":
            _refuse(options, "top_k", why="this run learns numbers")
    return _classify(run, options)


def _run_and_weights(text: str) -> list[str]:
    return [text] if Path(text).is_dir() else text.split("@")


def _refuse(options: Namespace, *names: str, why: str) -> None:
    for name in names:
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} changes nothing: {why}")


def _classify(run: Any, options: Namespace) -> int:
    from jaxdl.data.images import image_files
    from jaxdl.research.predict import mask_names, predicted, save_mask

    files = image_files(options.inputs)
    folder, unread = options.output or Path("masks"), 0
    width = max(len(str(file)) for file in files)
    names = mask_names(options.inputs, files)
    for answer, name in zip(predicted(run, files, options.top_k or 3), names, strict=True):
        if answer.error:
            print(f"error: {answer.error}", file=sys.stderr)
            unread += 1
            continue
        row, also = answer.to_json(), ""
        if answer.mask is not None:
            with writing(folder / name):
                save_mask(answer.mask, folder / name, len(run.class_names))
            row, also = row | {"mask": str(folder / name)}, f"  {folder / name}"
        words = [f"{c.name} {100 * c.fraction:.1f}%" for c in answer.classes]
        words += [f"{name} {x:.6g}" for name, x in (answer.numbers or {}).items()]
        shown = f"{str(answer.file):<{width}}  {'  '.join(words)}{also}"
        print(json.dumps(row) if options.json else shown, flush=True)
    return UNREAD if unread else 0


def _write(run: Any, options: Namespace) -> int:
    prompts = [(None, text) for text in options.text]
    unread = 0
    for file in options.inputs:
        try:
            prompts.append((file, file.read_text(encoding="utf-8").rstrip("\n")))
        except (OSError, UnicodeDecodeError) as error:
            print(f"error: cannot read the text {file}: {error}", file=sys.stderr)
            unread += 1
    if not prompts and not unread:
        raise UserError("name text files, or a --text")
    for file, prompt in prompts:
        text = run.complete(prompt, options.length)
        row = {"prompt": prompt, "text": text} | ({"file": str(file)} if file else {})
        print(json.dumps(row) if options.json else f"{prompt} -> {text}", flush=True)
    return UNREAD if unread else 0
