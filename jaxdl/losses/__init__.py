"""Losses: (logits, label) -> one float32 number an example; no reduction, no parameters."""
