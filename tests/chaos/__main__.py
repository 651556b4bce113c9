"""`python -m tests.chaos NAME [--n N] [--seed S]`; without a name, what experiments there are."""

import ast
import importlib
import sys
from pathlib import Path

from jaxdl.cluster.allocator import keep_memory

HERE = Path(__file__).parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    if len(sys.argv) > 1:
        keep_memory()  # as the program does
        sys.exit(importlib.import_module(f"chaos.{sys.argv[1]}").main(sys.argv[2:]))
    for file in sorted(HERE.glob("[a-z]*.py")):
        tree = ast.parse(file.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            print(f"{file.stem:<10} {ast.get_docstring(tree).splitlines()[0]}")
