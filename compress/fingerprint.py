"""A fingerprint of the code that a stored result depends on, found by following imports.

`fingerprint(evaluate, FastV)` starts at these definitions and follows every name they use to the statement
that binds it: through imports at the top of a module or inside a function, relative imports, `import a.b`,
and names that a package re-exports. It hashes the syntax of all statements it reaches. Comments, layout,
docstrings and the location of a file do not count.

The unit is a top-level statement of a module (a function, a class, a constant), not the module. With whole
modules as units, everything would depend on everything: a change to a plot in a report would invalidate every
result. With parts of a class as units, a method that is only called by name at run time would be missed. The
rules are:

- a used class counts with all of its methods and bases, and annotations are followed like code, because they
  name the classes whose methods are called;
- a name that cannot be followed (of a module with `__getattr__`, or of a module used as an object) counts as
  its whole module, and so does a string that is the dotted name of a module of this project;
- statements that run when a module is imported count as soon as anything else in the module does;
- a registry (a dictionary from strings to classes or functions) is not followed if it lists a start, because
  the choice has been made. So a method does not depend on the other methods. A registry that lists no start
  counts with all of its members.

A subclass that is only used at run time cannot be found from the code that calls it: give it as a start. The
packages of this project, the package of each start, and modules in the same folder are followed, which
includes a user's own method and its helpers. Python and installed libraries are not followed.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = frozenset({"evocomp", "evosearch", "compress", "baselines", "bench"})
INSTALLED = frozenset(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib"))
SILENT = frozenset({"ctx", "kind", "type_comment"})  # fields of the syntax tree that do not count
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Start = type | FunctionType | ModuleType
Name = tuple[str, ...]  # a dotted name in parts


def fingerprint(*starts: object) -> str:
    """Sixteen hexadecimal digits that change with the code of the `starts` or of anything they use.

    A start is a class, a function, or a whole module; any other object is replaced by its class. Order and
    repetition do not matter. Each source file is read once per process.
    """
    written: set[_Place] = set()
    typed: set[str] = set()  # code without a file, from an interpreter or a notebook
    for one in (found for start in starts for found in _definitions(start)):
        if place := _place(one):
            written.add(place)
        else:
            typed.add(_digest(*_compiled(one, set())))
    return _digest(*sorted(typed), _of_files(frozenset(written)))


def meaning(source: str) -> str:
    """The syntax of a module as text, without docstrings; the same in every version of Python."""
    return "".join(_told(_undocumented(ast.parse(source))))


@dataclass(frozen=True)
class _Place:
    """A module and a top-level name in it (empty for the module); `folder` holds the outermost package."""

    folder: Path
    module: Name
    inside: Name


@cache
def _of_files(places: frozenset[_Place]) -> str:
    homes: dict[Path, set[str]] = {ROOT: set(PACKAGES)}
    for one in places:
        homes.setdefault(one.folder, set()).add(one.module[0])
    project = _project(tuple((folder, frozenset(homes[folder])) for folder in sorted(homes)))
    return _digest(*sorted(project.reached([(one.module, one.inside) for one in places])))


def _definitions(start: object) -> Iterator[Start]:
    """Yield a start's definitions, base classes included: a class made at run time does not name them."""
    if isinstance(start, partial):
        yield from _definitions(start.func)
    elif isinstance(start, ModuleType | FunctionType):
        yield start
    else:
        kind = start if isinstance(start, type) else type(start)
        yield kind
        yield from (base for base in kind.__mro__[1:] if base.__module__.partition(".")[0] in PACKAGES)


def _place(start: Start) -> _Place | None:
    """The module and name that define a start; None if it is not in a file."""
    name = start.__name__ if isinstance(start, ModuleType) else start.__module__
    module = sys.modules.get(name)
    file = Path(getattr(module, "__file__", None) or "")
    if not file.is_file():
        return None
    if name == "__main__":
        spec = getattr(module, "__spec__", None)
        name = spec.name if spec else file.stem
    parts = tuple(name.split("."))
    levels = len(parts) if file.stem == "__init__" else len(parts) - 1
    inside = () if isinstance(start, ModuleType) else (start.__qualname__.partition(".")[0],)
    return _Place(file.resolve().parents[levels], parts, inside)


def _compiled(start: Start, seen: set[int]) -> Iterator[str]:
    """Yield the bytecode of a function or class, and of functions it calls in the same module."""
    if id(start) in seen:
        return
    seen.add(id(start))
    for one in vars(start).values() if isinstance(start, type) else [start]:
        one = getattr(one, "__func__", None) or getattr(one, "fget", None) or getattr(one, "func", one)
        if isinstance(one, FunctionType):
            names: list[str] = []
            yield from _instructions(one.__code__, names)
            yield repr((one.__defaults__, one.__kwdefaults__))
            for used in (one.__globals__.get(name) for name in names):
                if isinstance(used, type | FunctionType) and used.__module__ == start.__module__:
                    yield from _compiled(used, seen)
        elif isinstance(one, bool | int | float | str | tuple | None):
            yield repr(one)


def _instructions(code: CodeType, names: list[str]) -> Iterator[str]:
    names += code.co_names
    yield repr((code.co_code, code.co_names, code.co_varnames))
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _instructions(one, names)
        else:
            yield repr(one)


# Modules ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Unit:
    """A top-level statement of a module."""

    module: _Module
    node: ast.stmt

    @cached_property
    def said(self) -> str:
        return _digest(*_told(self.node))

    @cached_property
    def imports(self) -> dict[str, tuple[Name, Name]]:
        """The names that imports inside the statement bind, as in `_Module.imports`."""
        found: dict[str, tuple[Name, Name]] = {}
        for one in ast.walk(self.node):
            if isinstance(one, ast.Import | ast.ImportFrom):
                found |= self.module.bindings(one)
        return found

    @cached_property
    def uses(self) -> list[Name]:
        """The dotted names in the statement, each at full length."""
        found: dict[Name, None] = {}
        inner: set[ast.AST] = set()  # parts of longer names
        for one in ast.walk(self.node):
            if not isinstance(one, ast.Attribute | ast.Name) or one in inner:
                continue
            attributes: list[str] = []
            part: ast.expr = one
            while isinstance(part, ast.Attribute):
                attributes.append(part.attr)
                part = part.value
                inner.add(part)
            if isinstance(part, ast.Name):
                found[(part.id, *reversed(attributes))] = None
        return list(found)

    @cached_property
    def texts(self) -> list[Name]:
        """Strings in the statement that may be dotted names of modules."""
        texts = {one.value for one in ast.walk(self.node) if isinstance(one, ast.Constant)}
        names = [tuple(one.split(".")) for one in texts if isinstance(one, str) and "." in one]
        return sorted(name for name in names if name[0] in PACKAGES)

    @cached_property
    def members(self) -> list[str]:
        """The names that the statement lists if it is a registry; otherwise an empty list."""
        value = self.node.value if isinstance(self.node, ast.Assign | ast.AnnAssign) else None
        if not isinstance(value, ast.Dict):
            return []
        names = [one.id for one in value.values if isinstance(one, ast.Name)]
        keys = [one for one in value.keys if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        return names if len(names) == len(keys) == len(value.values) else []


class _Module:
    """A source file: statements by the names they bind, imports, and statements that run on import.

    An import binds a name to a name in a module, or to the module itself if the second is empty.
    """

    def __init__(self, name: Name, file: Path):
        self.name, self.package = name, file.stem == "__init__"
        self.units: dict[str, list[_Unit]] = {}
        self.imports: dict[str, tuple[Name, Name]] = {}
        self.stars: list[Name] = []
        self.runs: list[_Unit] = []
        for statement in _undocumented(ast.parse(file.read_bytes(), str(file))).body:
            self._add(statement)

    @property
    def everything(self) -> list[_Unit]:
        return [*self.runs, *(unit for units in self.units.values() for unit in units)]

    def bindings(self, node: ast.Import | ast.ImportFrom) -> dict[str, tuple[Name, Name]]:
        if isinstance(node, ast.ImportFrom):
            base = self._base(node)
            return {one.asname or one.name: (base, (one.name,)) for one in node.names if one.name != "*"}
        found: dict[str, tuple[Name, Name]] = {}
        for one in node.names:
            name = one.asname or one.name.partition(".")[0]  # without `as`, only the outermost is bound
            found[name] = (tuple(one.name.split(".")) if one.asname else (name,), ())
        return found

    def _base(self, node: ast.ImportFrom) -> Name:
        """The module that an import statement imports from."""
        module = tuple(node.module.split(".")) if node.module else ()
        return (*self.name[: len(self.name) - node.level + self.package], *module) if node.level else module

    def _add(self, statement: ast.stmt) -> None:
        names = set(_bound(statement))
        inside = [
            one for one in _outside_functions(statement) if isinstance(one, ast.Import | ast.ImportFrom)
        ]
        for one in inside:
            self.imports |= self.bindings(one)
            if isinstance(one, ast.ImportFrom) and any(alias.name == "*" for alias in one.names):
                self.stars.append(self._base(one))
        unit = _Unit(self, statement)
        for name in names:
            self.units.setdefault(name, []).append(unit)
        if not names and not inside:
            self.runs.append(unit)


def _outside_functions(node: ast.stmt) -> Iterator[ast.stmt]:
    """Yield a statement and the nested ones that run with it: the body of an `if`, not that of a function."""
    yield node
    if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        for one in ast.iter_child_nodes(node):
            if isinstance(one, ast.stmt):
                yield from _outside_functions(one)
            elif isinstance(one, ast.ExceptHandler):
                for statement in one.body:
                    yield from _outside_functions(statement)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds or changes, except by imports."""
    for one in _outside_functions(statement):
        if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield one.name
            continue
        for part in ast.iter_child_nodes(one):
            if isinstance(part, ast.stmt | ast.ExceptHandler):
                continue
            for target in ast.walk(part):
                if isinstance(getattr(target, "ctx", None), ast.Store):
                    while isinstance(target, ast.Attribute | ast.Subscript):
                        target = target.value
                    if isinstance(target, ast.Name):
                        yield target.id


# Following names --------------------------------------------------------------------------------------------


class _Project:
    """The followed code: packages, grouped by the folder that holds them, or all modules of a folder."""

    def __init__(self, homes: Sequence[tuple[Path, frozenset[str]]]):
        self._homes = homes
        self._modules: dict[Name, _Module | None] = {}

    def reached(self, starts: Iterable[tuple[Name, Name]]) -> Iterator[str]:
        """Yield a digest of each statement reached from the starts: its syntax and all that it refers to."""
        todo = [unit for module, inside in starts for unit in self._follow(module, inside) or []]
        chosen = set(todo)
        seen: set[_Unit] = set()
        while todo:
            unit = todo.pop()
            if unit in seen:
                continue
            seen.add(unit)
            for level in range(1, len(unit.module.name) + 1):
                if package := self._module(unit.module.name[:level]):
                    todo += package.runs
            told = [unit.said]
            for name in unit.uses:
                found = self._used(unit, name)
                if isinstance(found, str):
                    told.append(f"{'.'.join(name)} {found}")
                elif any(chosen & set(self._members(one)) for one in found):
                    told.append(f"{'.'.join(name)} chosen from")
                else:
                    told.append(f"{'.'.join(name)} {_digest(*sorted(one.said for one in found))}")
                    todo += found
            for name in unit.texts:
                if module := self._module(name):
                    todo += module.everything
            yield _digest(*told)

    def _used(self, unit: _Unit, name: Name) -> list[_Unit] | str:
        """The statements that a dotted name in a statement refers to, or a name outside of the project."""
        for imports in (unit.imports, unit.module.imports):
            if name[0] in imports:
                module, inside = imports[name[0]]
                found = self._follow(module, (*inside, *name[1:]))
                return ".".join((*module, *inside)) if found is None else found
        return self._bound(unit.module, name, set())

    def _members(self, unit: _Unit) -> list[_Unit]:
        """The statements that a registry lists."""
        return [one for name in unit.members for one in self._bound(unit.module, (name,), set())]

    def _follow(
        self, module: Name, inside: Name, seen: set[tuple[Name, str]] | None = None
    ) -> list[_Unit] | None:
        """The statements that a dotted name in a module refers to; None outside of the project."""
        found = self._module(module)
        if found is None:
            return None
        if not inside:
            return found.everything
        if bound := self._bound(found, inside, set() if seen is None else seen):
            return bound
        if self._module((*module, inside[0])):
            return self._follow((*module, inside[0]), inside[1:], seen)
        return [] if inside[0].startswith("__") else found.everything

    def _bound(self, module: _Module, name: Name, seen: set[tuple[Name, str]]) -> list[_Unit]:
        """Statements that bind the first part of a name in a module, or those it is imported from."""
        if (module.name, name[0]) in seen:
            return []  # `from . import part`, inside the package
        seen.add((module.name, name[0]))
        found = list(module.units.get(name[0], ()))
        if name[0] in module.imports:
            base, inside = module.imports[name[0]]
            found += self._follow(base, (*inside, *name[1:]), seen) or []
        for star in () if found else module.stars:
            if there := self._module(star):
                found += self._bound(there, name, seen)
        return found

    def _module(self, name: Name) -> _Module | None:
        if name not in self._modules:
            self._modules[name] = next(filter(None, (self._read(name, *home) for home in self._homes)), None)
        return self._modules[name]

    @staticmethod
    def _read(name: Name, folder: Path, packages: frozenset[str]) -> _Module | None:
        if not name or (folder in INSTALLED and name[0] not in packages):
            return None
        path = folder.joinpath(*name)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return _source(name, file)
        return None


_project = cache(_Project)
_source = cache(_Module)


# Syntax -----------------------------------------------------------------------------------------------------


def _undocumented(tree: ast.Module) -> ast.Module:
    """Remove the docstrings from the tree."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def _told(node: object) -> Iterator[str]:
    """Yield the syntax as text. Empty fields are omitted, because newer versions of Python add fields."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name in node._fields:
            value = getattr(node, name, None)
            if name not in SILENT and (value or not isinstance(value, list | None)):
                yield f" {name}("
                yield from _told(value)
                yield ")"
    elif isinstance(node, list):
        for one in node:
            yield from _told(one)
            yield ","
    else:
        yield f"{type(node).__name__} {node!r}"


def _digest(*parts: str) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]
