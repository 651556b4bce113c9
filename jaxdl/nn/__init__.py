"""Layers with parameters that two models or more are built from."""
