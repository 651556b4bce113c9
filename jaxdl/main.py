"""The command line: arguments to a config to a verb. The only place that parses arguments."""

import argparse
import contextlib
import sys
import textwrap
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jaxdl
from jaxdl import config_file
from jaxdl.cluster import allocator, hosts
from jaxdl.cluster.signals import Interrupted, stop_signals
from jaxdl.config import Config
from jaxdl.corrections import arguments as replaced
from jaxdl.corrections import instead, line_to_paste
from jaxdl.errors import UserError, choices, nearest
from jaxdl.override import override
from jaxdl.registry import ROOMS
from jaxdl.verbs import FILE, IMPORTS, every_verb
from jaxdl.verbs.parsing import Parser, count, overrides_in, positive, prepare_jax

DESCRIPTION = """\
Train, evaluate and report one run. Any field of the config is set as --config.field=value, any
argument of a part as --config.model.width=64; --config FILE --print-config shows every field,
--list KIND NAME the arguments of a part."""


def _parser() -> argparse.ArgumentParser:
    verbs = every_verb()
    width = max(map(len, verbs))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in verbs.items()]
    parser = Parser(
        prog="jaxdl",
        description=DESCRIPTION,
        epilog="\n".join(["other verbs, `jaxdl VERB --help` says more:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxdl {jaxdl.__version__}")
    parser.add_argument("--config", metavar=FILE, help="a .py or .json config file")
    parser.add_argument("--workdir", type=Path, help="run directory; one that has a run resumes it")
    parser.add_argument(
        "--list",
        nargs="*",
        metavar=("KIND", "PATTERN"),
        help=f"show what there is, e.g. models 'res*'; kinds: {', '.join(ROOMS)}",
    )
    parser.add_argument(*IMPORTS.flags, **IMPORTS.settings)
    parser.add_argument(
        "--print-config", action="store_true", help="print the config as JSON, stop"
    )
    several = parser.add_argument_group(
        "several processes",
        "The same command in each, and a --workdir that all of them see. See docs/launch.md.",
    )
    several.add_argument(
        "--distributed",
        action="store_true",
        help="ask the TPU pod, SLURM, Open MPI or Kubernetes",
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0; the port below is used too"
    )
    several.add_argument("--processes", type=count, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")
    several.add_argument(
        "--start-timeout", type=positive, default=300.0, metavar="SECONDS",
        help="until all must be there; default: 300",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status.

    0 done; 2 a user's mistake; 3 training diverged; 75 stopped by SIGTERM or SIGINT with all saved:
    the same command goes on; 74 a hang or a lost process: it goes on from the newest checkpoint;
    128 + the number of a second signal, which stops at once.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    allocator.keep_memory()
    # A warning of ours is for a reader, who has no use for the line of code it came from.
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        return _dispatch(list(arguments))
    except UserError as error:
        line = line_to_paste(error, arguments)
        end = " try: " if str(error).endswith("?") else "; try: "
        print(f"error: {error}" + (f"{end}{line}" if line else ""), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _dispatch(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        verbs = every_verb()
        if name == "train":
            return _train_or_show(arguments)
        if name not in verbs:
            if name.partition(":")[0] in config_file.shipped() or name.endswith((".py", ".json")):
                proposed = replaced([name], ["--config", name])
                raise UserError(f"'{name}' is a config: jaxdl --config {name}", proposed)
            near = nearest(name, ["train", *verbs])
            proposed = replaced([name], near[:1]) if near else instead("--help")
            raise UserError(f"unknown verb '{name}': {choices(name, ['train', *verbs])}", proposed)
        return verbs[name](arguments)
    return _train_or_show(arguments)


def _train_or_show(arguments: list[str]) -> int:
    overrides, rest = overrides_in(arguments)
    options = _parser().parse_args(rest)
    if options.list is not None:
        return _list(options.list, options.imports)
    if not options.config:
        raise UserError("name a config: --config configs/efficientnet.py (or see --help)", _named)
    config = override(config_file.load(options.config), overrides)
    if options.imports:
        config = config_file.add_imports(config, options.imports)
    if options.print_config:
        print(config_file.to_json(config), end="")
        return 0
    return _train(config, options)


def _named(typed: Sequence[str]) -> list[str]:
    verb = 1 if typed[:1] == ["train"] else 0
    return [*typed[:verb], "--config", "cnn", *typed[verb:]]


def _new_workdir(spec: str) -> Path:
    path, _, argument = spec.partition(":")
    parent = Path(path).resolve().parent.name
    stem = parent if path.endswith("config.json") else Path(path).stem
    name = "-".join(filter(None, [stem, argument, datetime.now().strftime("%Y%m%d-%H%M%S")]))
    return Path("runs") / name


def _train(config: Config, options: argparse.Namespace) -> int:
    with stop_signals(program=True), _among_others(config, options):
        return _run(config, options.workdir or _new_workdir(options.config))


def _among_others(
    config: Config, options: argparse.Namespace
) -> contextlib.AbstractContextManager[None]:
    if not (options.distributed or options.coordinator):
        return contextlib.nullcontext()
    if options.workdir is None:
        raise UserError("several processes need one --workdir that all of them see")
    timeout = options.start_timeout
    place = hosts.find_place(options.coordinator, options.processes, options.process, timeout)
    metadata = {"jaxdl": jaxdl.__version__, "config": config_file.to_dict(config)}
    # The watchdog says more than JAX does, so it has the first word.
    return hosts.joined(place, metadata, timeout=timeout, heartbeat=config.watchdog_seconds + 60)


def _run(config: Config, workdir: Path) -> int:
    prepare_jax()
    from jaxdl import front
    from jaxdl.rundir.progress import Diverged

    try:
        front.train(config, workdir)
    except Interrupted as stop:
        if hosts.leads():
            print(f"{stop}; the same command with --workdir {workdir} goes on from there")
        return stop.exit_status
    except Diverged as error:
        if hosts.leads():
            print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _list(request: list[str], imports: list[str]) -> int:
    from jaxdl import registry
    from jaxdl.assemble import import_user_module
    from jaxdl.listing import describe

    for name in imports:
        import_user_module(name)
    if len(request) > 2:
        raise UserError(f"--list takes a kind and a pattern, not {len(request)} words")
    if not request:
        for kind in ROOMS:
            print(f"{kind:<20} {len(registry.entries(kind)):>4}")
        return 0
    entries = registry.entries(*request)
    width = max((len(e.name) for e in entries), default=0)
    sizes = [""] * len(entries)
    if request[0] == "models":
        from jaxdl.perf.sizes import column

        sizes = column(e.name for e in entries)
    for entry, size in zip(entries, sizes, strict=True):
        paper = "" if entry.paper in entry.summary else entry.paper
        print(f"{entry.name:<{width}}  {size}{entry.summary}  {paper}".rstrip())
    if len(entries) == 1:
        print(textwrap.indent("\n".join(describe(entries[0])), "    "))
    if not entries:
        pattern = f"match '{request[1]}'" if len(request) > 1 else "come with jaxdl: see --import"
        raise UserError(f"no {request[0]} {pattern}", instead("--list", request[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
