"""The shape of the package: imports run one way, functions fit on a screen, only specifications know codecs by name."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import compressai_gen
from compressai_gen import specs

PACKAGE = Path(compressai_gen.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
NAMES = sorted(specs.own_specs())

# Each layer may import those before it and itself.
LAYERS = [
    {
        "_version",
        "errors",
        "options",
        "qualities",
        "resources",
        "specs",
        "streams",
        "files",
        "extras",
        "roles",
        "weights",
    }
    | {"weights", "configuration", "manifest", "offers", "programs", "openmp", "_compressai", "_matplotlib"}
    | {"arithmetic"},
    {"parsers"},
    {"layers", "diffusion", "entropy", "metrics", "data", "cgen"},
    {"models"},
    {"zoo"},
    {"coding", "codecs"},
]
OWN_PLACES = {
    "specs.py",  # the list of our own specifications
    "models/__init__.py",
    "zoo/__init__.py",
    *(f"models/{name}{suffix}.py" for name in NAMES for suffix in ("", "_spec")),
}


def _layer(part):
    """The index of a module's layer; those in none are programs, which nothing below may import."""
    return next((i for i, layer in enumerate(LAYERS) if part in layer), len(LAYERS))


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upward(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] == "compressai_gen" and len(parts) > 1:
            assert _layer(parts[1]) <= _layer(own), f"{own} imports {name}"


def test_functions_fit_on_a_screen():
    lengths = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{path.relative_to(PACKAGE)}: {node.name}"] = node.end_lineno - node.lineno + 1
    assert {where: n for where, n in lengths.items() if n > 60} == {}


def _names_in(path):
    """Names of codecs in the code of a file: its documentation may speak of them."""
    source = path.read_text(encoding="utf-8")
    documentation = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation.update(range(node.lineno, node.end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT and token.start[0] not in documentation:
            for name in NAMES:
                if re.search(rf"(?<![a-z]){name}(?![a-z])", token.string, re.IGNORECASE):
                    yield f"line {token.start[0]}: {token.string}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_codecs_are_known_by_their_specifications_alone(path):
    if str(path.relative_to(PACKAGE)) not in OWN_PLACES:
        assert list(_names_in(path)) == []


def test_nothing_asks_for_the_class_of_a_codec():
    classes = {spec.load().__name__ for spec in specs.own_specs().values()}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                assert not asked & classes, f"{path}: line {node.lineno}"
