"""The compiled modules avoid code that mypyc runs in another way than Python."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.paths import CLEAN

ROOT = Path(__file__).parents[1]
BUILT_IN = {"bool", "bytes", "dict", "float", "int", "list", "str", "tuple"}
_BUILD = ast.parse((ROOT / "hatch_build.py").read_text())
MODULES: tuple[str, ...] = next(
    ast.literal_eval(node.value)
    for node in _BUILD.body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
)
TREES = {
    name: ast.parse((ROOT / f"sidecar/{name.replace('.', '/')}.py").read_text()) for name in MODULES
}


def bases(cls: ast.ClassDef) -> set[str]:
    """Their names."""
    return {ast.unparse(base).split("[")[0] for base in cls.bases}


def classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def is_native(cls: ast.ClassDef) -> bool:
    """Whether mypyc compiles the class to a struct; dataclasses keep Python's defaults."""
    others = {"Protocol", "NamedTuple", "StrEnum", "Exception", "ValueError"}
    return not cls.decorator_list and not bases(cls) & others


NATIVE = {cls.name for tree in TREES.values() for cls in classes(tree) if is_native(cls)}


@pytest.mark.parametrize("module", MODULES)
def test_only_types_known_to_mypyc_have_a_default_of_none(module: str) -> None:
    """With other types, mypyc drops the default, and the attribute does not exist."""
    for cls in classes(TREES[module]):
        for line in cls.body if is_native(cls) else ():
            if isinstance(line, ast.AnnAssign) and ast.unparse(line.value or line) == "None":
                kind = ast.unparse(line.annotation).split(" | ")[0].split("[")[0]
                assert kind in BUILT_IN | NATIVE, f"{cls.name}.{ast.unparse(line)}"


@pytest.mark.parametrize("module", MODULES)
def test_a_default_on_a_class_is_a_constant(module: str) -> None:
    for cls in classes(TREES[module]):
        for line in cls.body if is_native(cls) else ():
            value = line.value if isinstance(line, ast.Assign | ast.AnnAssign) else None
            assert not isinstance(value, ast.List | ast.Dict | ast.Set | ast.Call), (
                f"{cls.name}: {ast.unparse(line)}"
            )


@pytest.mark.parametrize("module", MODULES)
def test_no_function_uses_one_name_for_two_kinds_of_exception(module: str) -> None:
    """In mypyc a name has one type, and the second kind of exception is a TypeError."""
    for function in ast.walk(TREES[module]):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kinds: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                kind = ast.unparse(node.type)
                where = f"{function.name}: {node.name}"
                assert kinds.setdefault(node.name, kind) == kind, where


def test_no_interpreted_class_is_derived_from_a_compiled_one() -> None:
    compiled = {ROOT / f"sidecar/{name.replace('.', '/')}.py" for name in MODULES}
    for path in (ROOT / "sidecar").rglob("*.py"):
        if path not in compiled:
            for cls in classes(ast.parse(path.read_text())):
                assert not bases(cls) & NATIVE, f"{path}: {cls.name}"


def blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of statements of all coroutine functions."""
    for function in ast.walk(tree):
        if isinstance(function, ast.AsyncFunctionDef):
            for node in ast.walk(function):
                for part in ("body", "orelse", "finalbody"):
                    found = getattr(node, part, None)
                    if isinstance(found, list):
                        yield found


@pytest.mark.parametrize("module", MODULES)
def test_no_attribute_is_read_after_none_was_assigned_to_it(module: str) -> None:
    """Mypyc takes it for None until the block ends, although it may change during an await."""
    for block in blocks(TREES[module]):
        emptied: set[str] = set()
        for statement in block:
            for node in ast.walk(statement):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    assert ast.unparse(node) not in emptied, f"line {node.lineno}"
            if isinstance(statement, ast.Assign) and ast.unparse(statement.value) == "None":
                emptied |= {ast.unparse(t) for t in statement.targets}


@pytest.mark.parametrize("module", MODULES)
def test_no_coroutine_awaits_while_it_handles_an_exception(module: str) -> None:
    """Compiled, the exception stays with the thread during the await: the next raise may crash.

    That is so in an except clause, and in a finally clause, which an exception may enter.
    """
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Try):
            handlers = [line for handler in node.handlers for line in handler.body]
            for line in [*handlers, *node.finalbody]:
                for part in ast.walk(line):
                    waits = isinstance(part, ast.Await | ast.AsyncFor | ast.AsyncWith)
                    assert not waits, f"line {line.lineno}"


def patterns() -> Iterator[re.Pattern[Any]]:
    """Every regular expression in a global of the package."""
    for file in (ROOT / "sidecar").rglob("*.py"):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        held = vars(importlib.import_module(name)).values()
        yield from (one for one in held if isinstance(one, re.Pattern))


def possessive_groups(parsed: Any) -> Iterator[Any]:
    """Possessive repeats of more than one character or set, at any depth."""
    if isinstance(parsed, list | tuple) or hasattr(parsed, "getwidth"):
        parts = list(parsed)
        if str(parts[:1]) == "[POSSESSIVE_REPEAT]" and len(list(parts[1][2])) > 1:
            yield parts[1]
        for part in parts:
            yield from possessive_groups(part)


def test_no_regular_expression_has_a_possessive_group() -> None:
    """Up to Python 3.11.4, such a group keeps what its last, failed repeat has matched.

    See python/cpython#106052. There, a path that ends in a dot would count as clean.
    """
    parse = importlib.import_module("re._parser").parse
    assert list(possessive_groups(parse(r"/(?:x|(?>a(?:a[.b]*+(?<!\.))*+))?")))
    found = list(patterns())
    assert CLEAN in found
    assert not [one for one in found if list(possessive_groups(parse(one.pattern, one.flags)))]
