"""How publishers name the tensors of a family, one family a file: our names on the left."""
