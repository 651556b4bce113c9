"""`jaxdl check`."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import prepare_jax, writing

if TYPE_CHECKING:
    from jaxdl.check_data import DataCheck

FOUND = 1
"""Exit status where something is wrong with the data."""
MOST = 50
"""Lines of one kind of finding; --json has all"""
PAGE = Path("data-check.html")


@verb(
    option("--data", action="store_true", help="read every example, and write a page of samples"),
    option("--output", type=Path, metavar="FILE", help=f"the page; default: {PAGE}"),
    option("--json", action="store_true", help="print one JSON object"),
    config="required",
)
def check(options: Namespace, config: Config) -> int:
    """Check a config, and with --data every example of its splits, without training.

    With --data: counts, shapes and classes; files that cannot be read; examples that stand in two
    splits, also encoded or resized anew; labels that contradict each other, or that nothing can be
    learnt from. Each is named by its file, or its number in the source. A page shows training
    examples before and after augmentation. The exit status is 1 if anything is wrong, else 0.
    """
    prepare_jax()
    if not options.data:
        from jaxdl.assemble import assemble

        for name in ("output", "json"):
            if getattr(options, name):
                raise UserError(f"--{name} changes nothing without --data")
        plan = assemble(config)
        sizes = ", ".join(f"{role} {len(split):,}" for role, split in plan.splits.items())
        print(f"the config is sound: {plan.steps:,} steps; examples: {sizes}")
        return 0

    from jaxdl.check_data import check_data

    result = check_data(config, _progress)
    page = options.output or PAGE
    _write(page, result, config)
    if options.json:
        print(json.dumps(result.to_json() | {"page": str(page)}))
    else:
        print("\n".join([*_lines(result), f"samples: {page}"]))
    return FOUND if result.findings else 0


def _progress(role: str, n: int, numbers: Any) -> Any:
    from tqdm import tqdm

    return tqdm(numbers, role, n, leave=False, disable=None, file=sys.stderr)


def _lines(result: "DataCheck") -> list[str]:
    from jaxdl.check_data import facts

    lines = []
    for audit in result.audits:
        about = facts(audit)
        unread = about["examples"] - about["readable"]
        lines.append(
            f"{audit.role}  {audit.split}  {about['examples']:,} examples"
            + (f", {unread:,} of them unreadable" if unread else "")
        )
        for key, shapes in about["elements"].items():
            shown = [
                f"{shape} ({n:,})" if len(shapes) > 1 else shape for shape, n in shapes.items()
            ]
            more = f", {len(shown) - 4} more" if len(shown) > 4 else ""
            target = f": {about['targets'][key]}" if key in about["targets"] else ""
            lines.append(f"  {key}  {', '.join(shown[:4])}{more}{target}")
        for counts in about["classes"].values():
            shown = [f"{name} {n:,}" for name, n in counts.items()]
            more = f", {len(shown) - 20} more" if len(shown) > 20 else ""
            lines.append(f"  {', '.join(shown[:20])}{more}")
    lines += [f"note: {note}" for note in result.notes]
    for kind, found in _by_kind(result).items():
        lines += [f"{kind}: {line}" for line in found[:MOST]]
        if len(found) > MOST:
            lines.append(f"{kind}: {len(found) - MOST:,} more (--json lists all)")
    n = len(result.findings)
    return [*lines, f"{n:,} finding{'' if n == 1 else 's'}" if n else "no finding"]


def _by_kind(result: "DataCheck") -> dict[str, list[str]]:
    kinds = dict.fromkeys(finding.kind for finding in result.findings)
    return {kind: [str(f) for f in result.findings if f.kind == kind] for kind in kinds}


def _write(page: Path, result: "DataCheck", config: Config) -> None:
    from jaxdl.check_data import facts
    from jaxdl.report.data import data_page

    arguments = ", ".join(f"{k}={v}" for k, v in config.data.source.args.items())
    with writing(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(
            data_page(
                f"{config.data.source.name}({arguments})",
                {audit.role: facts(audit) for audit in result.audits},
                _by_kind(result),
                result.notes,
                result.samples,
                result.pairs,
                result.augment,
            ),
            encoding="utf-8",
            errors="replace",
        )
