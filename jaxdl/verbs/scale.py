"""`jaxdl scale`."""

from argparse import Namespace

from jaxdl.config import Config
from jaxdl.errors import UserError, choices
from jaxdl.verbs import option, verb
from jaxdl.verbs.parsing import assembled, count, positive


@verb(
    option("--chip", default="TPU v5e", metavar="NAME", help="default: TPU v5e"),
    option(
        "--devices", type=count, nargs="+", default=[1, 8, 64, 512], metavar="N",
        help="default: 1 8 64 512",
    ),
    option(
        "--utilisation", type=positive, default=0.5, metavar="FRACTION",
        help="of its peak that one device reaches: jaxdl bench; default: 0.5",
    ),
    option(
        "--network", type=positive, metavar="GB/s",
        help="a device along the axis data; default: as its own links",
    ),
    config="required",
)  # fmt: skip
def scale(options: Namespace, config: Config) -> int:
    """Say how fast a config would train on more devices, by a model of the machine.

    How long a step would take on so many devices of a kind, from nothing hidden to all hidden
    behind the arithmetic. The axes fsdp, tensor and stage are the config's. The images of a
    well-known data set need not be on this machine: their shape is enough.
    """
    from jaxdl.perf import scaling
    from jaxdl.perf.roofline import CHIPS
    from jaxdl.perf.table import aligned

    chips = {chip.name: chip for chip in CHIPS}
    if options.chip not in chips:
        raise UserError(f"no chip '{options.chip}': {choices(options.chip, chips)}")
    # the mesh is that of the devices asked for, not of those at hand
    axes = {axis: getattr(config.mesh, axis) for axis in ("fsdp", "tensor", "stage")}
    if any(size < 1 for size in axes.values()):
        raise UserError("config.mesh: give fsdp, tensor and stage sizes, data takes what is left")
    config, plan = assembled(config, mesh=scaling.one_device())
    work = scaling.work_of(plan)
    rows = scaling.table(
        work,
        chips[options.chip],
        options.devices,
        config.data.batch_size,
        axes,
        micro_batches=config.gradient.accumulate,
        utilisation=options.utilisation,
        network=options.network and options.network * 1e9,
    )
    print(
        f"{config.model.name}: {work.parameters:,} parameters, {work.flops / 1e9:.4g} GFLOP a "
        f"training example, {config.data.batch_size} examples a device, {options.chip}"
    )
    print("\n".join(aligned(rows, ">" * len(rows[0]))))
    return 0
