"""The machine: one sharded step and what surrounds it. Knows no model, no loss and no name."""
