"""Evaluation of a plan's splits: their batches, and the function that measures them."""

from jaxdl.assemble import Plan
from jaxdl.config import Config
from jaxdl.data.fingerprint import Fingerprint
from jaxdl.data.pipeline import evaluation_batches
from jaxdl.data.prefetch import Batches
from jaxdl.held import order_of
from jaxdl.metrics.base import Metric, on_target
from jaxdl.train.evaluate import Evaluate, make_evaluate
from jaxdl.train.outputs import output_rows
from jaxdl.train.sharding import batch_sharding, batch_shards

ROWS = "outputs of each example"  # beside the metrics, none of which is called so


def whole_split(
    config: Config,
    plan: Plan,
    role: str,
    examples: int | None = None,
    fingerprint: Fingerprint | None = None,
) -> Batches:
    """A split's batches for evaluation, or those of so many of its examples; padding masked."""
    mesh, data, shards = plan.mesh, config.data, batch_shards(plan.mesh)
    held, split, size = plan.held.get(role), plan.splits[role], data.evaluation_batch_size
    order = held and order_of(config, role, held, split)
    return evaluation_batches(
        split,
        batch_size=size if order else -(-size // shards) * shards,
        order=order,
        sharding=batch_sharding(mesh),
        prefetch=data.prefetch,
        threads=data.threads,
        examples=examples,
        fingerprint=fingerprint,
    )


def evaluator(plan: Plan, role: str) -> Evaluate:
    """The function that measures an evaluation split, or training examples."""
    objective = plan.held[role].objective if role in plan.held else plan.objective
    return make_evaluate(objective, plan.metrics_of(role), plan.mesh)


def final_roles(plan: Plan) -> list[str]:
    """Splits whose outputs a run keeps at its end, the first of which its page shows.

    They are 'test', or 'validation' where there is none, and all others of the end.
    """
    first = next((role for role in ("test", "validation") if role in plan.splits), None)
    others = [role for role in plan.roles("end") if role != first]
    return [first, *others] if first else others


def with_rows(config: Config, plan: Plan, role: str) -> dict[str, Metric]:
    """The metrics of an evaluation split, and as `ROWS` the outputs of each of its examples."""
    limit, n = config.evaluation.outputs_limit, len(plan.splits[role])
    rows = output_rows(n, limit, plan.unit, plan.target.kind)
    return plan.held[role].metrics | {ROWS: on_target(rows, plan.target_name)}
