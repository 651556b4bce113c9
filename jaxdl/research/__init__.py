"""Functions of a finished model or of several runs: what it costs, what it is made of."""
