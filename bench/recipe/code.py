"""What code a result depends on: a digest that comments, layout and docstrings do not change."""

from __future__ import annotations

import ast
from functools import cache
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def code_of(*names: str) -> str:
    """Digest of what the modules at these paths say (`compress/labels`, `compress/fitness.py`)."""
    digest = sha256()
    for name in names:
        path = ROOT / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.relative_to(ROOT)}\n{meaning(file.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()[:16]


def meaning(source: str) -> str:
    """The syntax of a module without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)
