"""Weights from elsewhere: files read without running anything in them."""
