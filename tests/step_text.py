"""Digests of the lowered training steps of eight configs: has a change touched the program?

    python -m tests.step_text            # name, characters, digest up to the names of functions

Nothing is compiled and no data is needed but what is embedded. Run it before and after a change, on
the same machine; a step whose digest is the same is the same program.
"""

import hashlib
import re
from pathlib import Path

from jaxdl.assemble import assemble
from jaxdl.config_file import load
from jaxdl.override import override
from jaxdl.train.step import compile_step

ROOT = Path(__file__).parents[1]
MANY = {
    "wrappers": "sam",
    "average": "ema",
    "gradient.accumulate": "2",
    "gradient.transforms": "centralize, clip_norm(limit=1.0)",
    "regularizers": "l2",
    "augment": "rand_augment(magnitude=5), mixup",
    "precision": "bfloat16",
    "lr_multipliers": '{"head/.*": 10}',
}
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "cnn": ("cnn.py", {}),
    "resnet20": ("resnet.py", {}),
    "efficientnet": ("efficientnet.py", {"model.width": "0.25"}),
    "lenet": ("lenet.py", {}),
    "segmentation": ("segmentation.py", {}),
    "language": ("language.py", {}),
    "translation": ("translation.py", {}),
    "many options": ("cnn.py", MANY),
}
"""Name to a file of `configs/` and what is changed in it."""


def step_text(file: str, changes: dict[str, str]) -> str:
    """The lowered step of a config, as StableHLO."""
    config = override(load(str(ROOT / "configs" / file)), changes.items())
    plan = assemble(config)
    state = plan.abstract_state(config.seed)
    step = compile_step(plan.step, state)
    return step.lower(state, plan.batch_spec(config.data.batch_size)).as_text()


if __name__ == "__main__":
    for name, (file, changes) in CASES.items():
        text = step_text(file, changes)
        digest = hashlib.blake2b(re.sub(r"@\w+", "@f", text).encode(), digest_size=8).hexdigest()
        print(f"{name:<14} {len(text):>9,}  {digest}", flush=True)
