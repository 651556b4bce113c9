"""Language modelling: the next byte of a text, judged by bits a byte.

    python -m jaxdl.main --config configs/language.py                 # what Python's help() says
    python -m jaxdl.main --config configs/language.py:shakespeare

help         2.25 bits a byte on test (1 seed), perplexity 4.8, 2.7 minutes on 2 CPU cores, 495k
             parameters; frequencies of bytes give 4.60, of pairs of bytes 3.30. Python 3.11's text
shakespeare  not yet measured

Attention Is All You Need. Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez et al. 2017.
https://arxiv.org/abs/1706.03762
"""

from jaxdl.config import Config, Data, Evaluation, Gradient, Part, choose, part


def get_config(argument: str = "help") -> Config:
    """The config for 'help' or 'shakespeare'."""
    return choose(argument, {"help": documentation, "shakespeare": shakespeare})()


def bytewise(source: Part, **fields) -> Config:
    """A small decoder, norms before the branches, so that it needs no long warmup."""
    defaults = {
        "model": part(
            "transformer_decoder",
            width=128,
            depth=2,
            heads=4,
            hidden=512,
            position=part("learned", length=512),
            placement="pre",
            activation="gelu",
            drop_rate=0.1,
        ),
        "optimizer": part("adamw", learning_rate=3e-3, weight_decay=0.1),
        "schedule": part("warmup_cosine", warmup="5%"),
        "duration": "4 epochs",
    }
    return Config(
        data=Data(source=source, batch_size=16, evaluation_batch_size=128),
        objective=part("language"),
        gradient=Gradient(transforms=(part("clip_norm", limit=1.0),)),
        preprocess=(),
        evaluation=Evaluation(
            metrics=(part("bits_per_token"), part("perplexity"), part("next_token_accuracy")),
            monitor="validation/bits_per_token",
            mode="min",
        ),
        **{**defaults, **fields},
    )


def documentation() -> Config:
    """Minutes on two CPU cores."""
    return bytewise(part("characters", length=64))


def shakespeare() -> Config:
    """Six blocks of width 256, for a GPU."""
    return bytewise(
        part("characters", dataset="tiny_shakespeare", length=256),
        model=part(
            "transformer_decoder",
            width=256,
            depth=6,
            heads=8,
            hidden=1024,
            position=part("learned", length=512),
            placement="pre",
            activation="gelu",
            drop_rate=0.2,
        ),
        optimizer=part("adamw", learning_rate=1e-3, weight_decay=0.1),
        duration="20 epochs",
    )
