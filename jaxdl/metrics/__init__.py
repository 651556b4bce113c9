"""Metrics: (outputs, batch) -> (sum, count). Merging is addition, the value is sum / count."""
