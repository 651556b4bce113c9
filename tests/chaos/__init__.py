"""Faults of every kind, one file an experiment: `python -m tests.chaos NAME` runs its full form.

The tests run the same functions with small numbers. The folder `tests` is on the path in both, so
that files import each other as `from chaos.x import ...`, and what tests share as
`from hostile import ...`.
"""
