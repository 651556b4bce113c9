"""What PyTorch's attention and timm's resized positions are: writes `attention.npz`.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.28
    python tests/references/make_attention.py

Inputs are drawn by name, see `fill.py`: x (2, 5, 8), source (2, 3, 8), positions (1, 50, 4).
"""

from pathlib import Path

import make_logits  # noqa: F401 (makes timm importable where torch is built for the CPU alone)
import numpy as np
import torch
from fill import tensor
from timm.layers import resample_abs_pos_embed

SIZES = ((14, 14), (5, 3), (8, 10))


def drawn(name: str, *shape: int) -> torch.Tensor:
    """A tensor by its name, float64."""
    return torch.from_numpy(np.array(tensor(name, shape, 1.0)))


def main() -> None:
    """Write the file."""
    x, source = drawn("x.weight", 2, 5, 8), drawn("source.weight", 2, 3, 8)
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    for name, value in layer.state_dict().items():
        value.copy_(
            drawn(name.replace("_weight", ".weight").replace("_bias", ".bias"), *value.shape)
        )
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    hidden = torch.tensor([[False] * 3, [False, True, True]])
    with torch.no_grad():
        itself, weights = layer(x, x, x, attn_mask=causal, average_attn_weights=False)
        other, _ = layer(x, source, source, key_padding_mask=hidden)
    positions = drawn("positions.weight", 1, 50, 4)
    resized = {
        f"{h}x{w}": resample_abs_pos_embed(positions, [h, w], [7, 7]).numpy() for h, w in SIZES
    }
    results = {"causal": itself.numpy(), "weights": weights.numpy(), "source": other.numpy()}
    results = {k: v.astype(np.float32) for k, v in (results | resized).items()}
    np.savez_compressed(Path(__file__).with_suffix("").parent / "attention.npz", **results)


if __name__ == "__main__":
    main()
