"""Metrics: (outputs, batch) -> (sum, count). Merging is addition, the value is sum / count.

Facts of a registered metric, both optional: `each`, what it counts ('example', 'pixel', 'token'),
and `value`, what makes (sum, count) of a whole split the value where that is no plain quotient.
"""
