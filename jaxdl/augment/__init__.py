"""Augmentations: (key, batch) -> batch, on the device, inside the step. One idea a file."""
