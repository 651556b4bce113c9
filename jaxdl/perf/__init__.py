"""Measuring cost: speed, memory, FLOPs, sizes, scaling."""
