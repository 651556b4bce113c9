"""Entries of a run's manifest that are known before training: seed, mesh, steps, data."""

import dataclasses
from typing import Any

from jaxdl.assemble import Plan
from jaxdl.config import Config
from jaxdl.config_file import in_words
from jaxdl.data.recorded import record
from jaxdl.data.streams import MAIN


def run_metadata(plan: Plan, config: Config) -> dict[str, Any]:
    """Entries of the manifest of a run."""
    train_split = plan.splits["train"]
    named = {role: s for role, s in plan.splits.items() if not role.startswith("streams.")}
    return {
        "precision": str(plan.parts.one("precision", plan.to_steps)().dtype),
        "seed": config.seed,
        "mesh": dict(plan.mesh.shape),
        "steps": plan.steps,
        "data": {
            "source": config.data.source.name,
            **{role: len(split) for role, split in named.items()},
            "digests": {role: split.digests for role, split in named.items() if split.readable},
            "subset": config.data.subset and in_words(config.data.subset),
            "sampler": in_words(config.data.sampler),
            "streams": {
                name: {
                    "source": (config.data.streams[name].source or config.data.source).name,
                    "examples": len(stream.split),
                    "batch_size": stream.batch_size,
                }
                for name, stream in plan.streams.items()
                if name != MAIN
            },
            "num_classes": train_split.num_classes,
            "class_names": list(train_split.class_names),
            "vocabulary": train_split.vocabulary,
            "tokenizer": train_split.tokenizer and dataclasses.asdict(train_split.tokenizer.part),
            "elements": record(train_split),
            "target": plan.target_name,
            "targets": {name: one._asdict() for name, one in train_split.targets.items()},
        },
    }
