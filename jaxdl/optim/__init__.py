"""How parameters move, given a gradient: Optax transformations and schedules of their size."""
