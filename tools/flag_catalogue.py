#!/usr/bin/env python3
"""Catalogue the flags and parsers of one vLLM release, as JSON: facts only, for vLLM's help texts stay with vLLM.

    flag_catalogue.py --release 0.32.0      downloads the release's wheel with pip, and reads it
    flag_catalogue.py --wheel FILE.whl      reads the sources in a wheel, without importing or installing anything
    flag_catalogue.py --installed           asks the vLLM of the Python that runs this (no GPU is needed)

It prints the catalogue. With --write it becomes plugins/module_utils/data/flags/RELEASE.json, and the release's names go into
history.json beside it; with --names-only they go there alone, for old releases.

A flag says: ``kind`` (bool; int; size: an int that may be written as 32k; float; str; json; any: more than one of these),
``choices``, ``default`` (absent: none), ``several`` (takes a list), ``aliases``, ``deprecated``. Choices or a default of null are
computed when vLLM starts, so nobody may refuse a value because of them.

Both ways end in what argparse is told of each flag. In a wheel that is found by following vLLM's own ``make_arg_parser``, statement
by statement, through the few things that it does with literals, dicts and configuration classes; what is beyond them is UNKNOWN.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.metadata
import inspect
import json
import operator
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "plugins/module_utils/data/flags"
# newest first: where releases keep (or kept) the parser of `vllm serve`
PARSER_MODULES = tuple(f"vllm.entrypoints.{place}.cli_args" for place in ("common", "launchers", "openai"))
REGISTRIES = {
    "tool_parsers": ("vllm.tool_parsers", "_TOOL_PARSERS_TO_REGISTER"),
    "reasoning_parsers": ("vllm.reasoning", "_REASONING_PARSERS_TO_REGISTER"),
}
# the wheels of all releases since 0.6.0 have one of these tags
PLATFORMS = tuple(f"{tag}_x86_64" for tag in ("manylinux_2_35", "manylinux_2_31", "manylinux_2_28", "manylinux1"))
KINDS = {"int": "int", "float": "float", "human_readable_int": "size", "human_readable_int_or_auto": "size"}
KINDS |= {"loads": "json", "parse_dataclass": "json"}
DEPRECATED = re.compile(r"^\W*(?:DEPRECATED|Deprecated)\b|^--\S+ is deprecated", re.MULTILINE)
# --help is no setting, and --config cannot stand in the file that it names
NOT_FOR_INVENTORIES = {"help", "config"}
OPERATORS = {ast.Add: operator.add, ast.Mult: operator.mul}

Spec = dict[str, Any]  # the keywords of one add_argument


class Unknown:
    """What a program computes when it runs."""


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Symbol:
    """Something that a source names but does not hold, such as ``json.loads`` or ``int``."""

    name: str


LOST = Symbol("a name of this package that was not found")


@dataclass(frozen=True)
class Class:
    """A class of a source."""

    module: str
    node: ast.ClassDef


@dataclass(frozen=True)
class Hint:
    """One type of a field's annotation: its name, and a Literal's values or a collection's element types."""

    name: str
    inside: tuple[Any, ...] = ()


# what both ways share


def plain(value: Any) -> Any:
    """Return a value that JSON has, or UNKNOWN. The types are compared exactly: an Enum may be an int too."""
    if type(value) in (list, tuple):
        items = [plain(item) for item in value]
        return UNKNOWN if UNKNOWN in items else items
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()} if UNKNOWN not in map(plain, value.values()) else UNKNOWN
    return value if value is None or type(value) in (bool, int, float, str) else UNKNOWN


def kind_of(spec: Spec) -> str:
    """Return the kind of value that a flag takes."""
    action = spec.get("action")
    if action in (Symbol("argparse.BooleanOptionalAction"), "store_true", "store_false"):
        return "bool"
    converter = spec.get("type")
    if converter is UNKNOWN or spec.get("nargs") == "?":
        return "any"
    return KINDS.get(converter.name.split(".")[-1], "str") if isinstance(converter, Symbol) else "str"


def describe(names: Sequence[str], spec: Spec) -> tuple[str, dict[str, Any]]:
    """Return a flag's name and what the catalogue says of it, from what argparse is told."""
    name, *aliases = [name[2:] for name in names if name.startswith("--")]
    said: dict[str, Any] = {"kind": kind_of(spec)}
    choices = plain(spec.get("choices"))
    if choices is UNKNOWN:
        said["choices"] = None
    elif choices:
        # None among the choices says only that the flag may be left out
        said["choices"] = sorted(choice for choice in choices if choice not in (None, "None"))
    default = plain(spec.get("default", False if spec.get("action") == "store_true" else None))
    if default is UNKNOWN:
        said["default"] = None
    elif default not in (None, argparse.SUPPRESS):
        said["default"] = default
    if spec.get("nargs") not in (None, 0, "?"):
        said["several"] = True
    if aliases:
        said["aliases"] = sorted(aliases)
    if spec.get("deprecated") or DEPRECATED.search(str(spec.get("help"))):
        said["deprecated"] = True
    return name, said


def catalogue(release: str, arguments: Sequence[tuple[Sequence[str], Spec]], parsers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the catalogue: ``arguments`` are option strings and specs, ``parsers`` the names of both kinds."""
    flags = dict(describe(names, spec) for names, spec in arguments if any(name.startswith("--") for name in names))
    wanted = {name: said for name, said in sorted(flags.items()) if name not in NOT_FOR_INVENTORIES}
    return {"release": release, "flags": wanted, **{key: sorted(names) for key, names in parsers.items()}}


# an installed vLLM


def installed() -> dict[str, Any]:
    """Return the catalogue of the vLLM that this Python has installed."""
    sys.argv = ["vllm", "--help=all"]  # vLLM reads the texts that say "deprecated" only then
    arguments = first_module("vllm.utils.argparse_utils", "vllm.utils")
    parser = first_module(*PARSER_MODULES).make_arg_parser(arguments.FlexibleArgumentParser(prog="vllm serve"))
    deprecated = getattr(parser, "_deprecated", ())
    found = []
    for action in parser._actions:
        spec = {
            "type": Symbol(converter_name(action.type)),
            "action": "store_true" if action.nargs == 0 else None,
            "deprecated": action in deprecated or getattr(action, "deprecated", False),
            **{key: getattr(action, key) for key in ("nargs", "choices", "default", "help")},
        }
        # BooleanOptionalAction makes the --no- names of its own
        names = [name for name in action.option_strings if not (action.nargs == 0 and name.startswith("--no-"))]
        found.append((names, spec))
    parsers = {key: list(getattr(importlib.import_module(module), registry)) for key, (module, registry) in REGISTRIES.items()}
    return catalogue(importlib.metadata.version("vllm").split("+")[0], found, parsers)


def first_module(*names: str) -> ModuleType:
    """Import the first of several modules that exists: the parser has moved between releases."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"none of {names} is in the installed vllm: teach this tool where the release keeps it")


def converter_name(converter: Any) -> str:
    """Return the name of the function that reads a flag's text, without vLLM's wrappers for None and for errors."""
    while inspect.isfunction(converter) and "return_type" in (inside := inspect.getclosurevars(converter).nonlocals):
        converter = inside["return_type"]
    return getattr(converter, "__name__", "str")


# a wheel


class Sources:
    """The modules of a package: their names at run time, followed through imports."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """Take path in the wheel -> text."""
        self.files = files
        self._names: dict[str, dict[str, ast.AST]] = {}

    def path(self, module: str) -> str | None:
        """Return the file of a module of this package."""
        base = module.replace(".", "/")
        return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in self.files), None)

    def names(self, module: str) -> dict[str, ast.AST]:
        """Return what a module's own level binds: name -> the node that does."""
        if module not in self._names:
            self._names[module] = {}
            path = self.path(module)
            for statement in self._at_run_time(ast.parse(self.files[path]).body) if path else ():
                self._names[module] |= self._bound(statement, module)
        return self._names[module]

    def _at_run_time(self, body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            if isinstance(statement, ast.If):
                checking = ast.unparse(statement.test).endswith("TYPE_CHECKING")
                yield from self._at_run_time(statement.orelse + ([] if checking else statement.body))
            elif isinstance(statement, ast.Try):
                yield from self._at_run_time(statement.body)
            else:
                yield statement

    def _bound(self, statement: ast.stmt, module: str) -> dict[str, ast.AST]:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            return {statement.name: statement}
        if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
            return dict.fromkeys(self.names(self._origin(statement, module)), statement)
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            return {alias.asname or alias.name.split(".")[0]: statement for alias in statement.names}
        if isinstance(statement, ast.AnnAssign) and statement.value and isinstance(statement.target, ast.Name):
            return {statement.target.id: statement.value}
        if isinstance(statement, ast.Assign):
            return {target.id: statement.value for target in statement.targets if isinstance(target, ast.Name)}
        return {}

    def _origin(self, node: ast.ImportFrom, module: str) -> str:
        if not node.level:
            return node.module or ""
        package = module if (self.path(module) or "").endswith("__init__.py") else module.rpartition(".")[0]
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])

    def find(self, module: str, name: str) -> tuple[str, ast.AST | Symbol]:
        """Return the module that holds what a name means, and the node; a Symbol for what is not in this package."""
        node = self.names(module).get(name)
        if isinstance(node, ast.Import):
            whole = next(alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) == name)
            return module, Symbol(whole.name if whole.asname else name)
        if isinstance(node, ast.ImportFrom):
            origin = self._origin(node, module)
            original = next((alias.name for alias in node.names if alias.asname == name), name)
            if original in self.names(origin):
                return self.find(origin, original)
            return module, LOST if self.path(origin) else Symbol(original)
        return module, node or Symbol(name)


class Reader:
    """Follows make_arg_parser through the sources, and collects what argparse is told."""

    def __init__(self, sources: Sources) -> None:
        """Take the sources of one release."""
        self.sources = sources
        self.arguments: list[tuple[list[str], Spec]] = []
        rules = [
            node
            for name, node in sources.names("vllm.engine.arg_utils").items()
            if name in ("get_kwargs", "_compute_kwargs") and isinstance(node, ast.FunctionDef)
        ]
        # the rules of get_kwargs name the fields that take a size, and say whether a flag may stand without its value
        self.named_by_rules = {node.value for rule in rules for node in ast.walk(rule) if isinstance(node, ast.Constant)}

    # statements

    def run(self, body: Sequence[ast.stmt], module: str, env: dict[str, Any]) -> Any:
        """Follow statements; return what they return. Both branches of an ``if`` are taken: a flag of either is a flag."""
        result = None
        for statement in body:
            if isinstance(statement, ast.If):
                self.run(statement.body + statement.orelse, module, env)
            elif isinstance(statement, ast.Expr):
                self.value(statement.value, module, env)
            elif isinstance(statement, ast.Return) and statement.value:
                result = self.value(statement.value, module, env)
            elif isinstance(statement, ast.Assign):
                self._assign(statement.targets[0], self.value(statement.value, module, env), module, env)
            elif isinstance(statement, ast.Delete):
                container, key = self._item(statement.targets[0], module, env)
                container.pop(key, None)
            elif isinstance(statement, ast.For):
                items = self.value(statement.iter, module, env)
                for item in [] if isinstance(items, (Unknown, Symbol)) else list(items):
                    self._assign(statement.target, item, module, env)
                    self.run(statement.body, module, env)
        return result

    def _assign(self, target: ast.expr, value: Any, module: str, env: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = value
        elif isinstance(target, ast.Tuple):
            for part, item in zip(target.elts, value):
                self._assign(part, item, module, env)
        elif isinstance(target, ast.Subscript):
            container, key = self._item(target, module, env)
            container[key] = value

    def _item(self, node: ast.expr, module: str, env: Mapping[str, Any]) -> tuple[dict[Any, Any], Any]:
        container = self.value(node.value, module, env) if isinstance(node, ast.Subscript) else UNKNOWN
        if not isinstance(node, ast.Subscript) or not isinstance(container, dict):
            return {}, None  # what is changed there is no argument's
        return container, self.value(node.slice, module, env)

    # expressions

    def value(self, node: ast.AST | Symbol | None, module: str, env: Mapping[str, Any]) -> Any:  # noqa: PLR0911 - one for each kind of node
        """Return what an expression is: plain values, a Symbol, a Class, or UNKNOWN."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return self._list(node.elts, module, env)
        if isinstance(node, ast.Dict):
            return self._dict(node, module, env)
        if isinstance(node, ast.Name):
            return env[node.id] if node.id in env else self._global(node.id, module)
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value, module, env)
            if isinstance(owner, Class):
                return self.default(owner, node.attr)
            return Symbol(f"{owner.name}.{node.attr}") if isinstance(owner, Symbol) else UNKNOWN
        if isinstance(node, ast.JoinedStr):
            parts = [self.value(part.value if isinstance(part, ast.FormattedValue) else part, module, env) for part in node.values]
            return "".join(parts) if all(isinstance(part, str) for part in parts) else UNKNOWN
        if isinstance(node, (ast.BinOp, ast.UnaryOp)):
            return self._computed(node, module, env)
        if isinstance(node, ast.Subscript):
            container, key = self._item(node, module, env)
            return container.get(key, UNKNOWN)
        if isinstance(node, ast.Call):
            return self._call(node, module, env)
        return Symbol("lambda") if isinstance(node, ast.Lambda) else UNKNOWN

    def _global(self, name: str, module: str) -> Any:
        where, node = self.sources.find(module, name)
        if isinstance(node, ast.ClassDef):
            return Class(where, node)
        if isinstance(node, (ast.FunctionDef, Symbol)):
            return Symbol(name) if isinstance(node, ast.FunctionDef) else node
        return self.value(node, where, {})

    def _list(self, nodes: Sequence[ast.expr], module: str, env: Mapping[str, Any]) -> Any:
        found: list[Any] = []
        for node in nodes:
            value = self.value(node.value if isinstance(node, ast.Starred) else node, module, env)
            if not isinstance(node, ast.Starred):
                found.append(value)
            elif isinstance(value, list):
                found += value
            else:
                return UNKNOWN
        return found

    def _dict(self, node: ast.Dict, module: str, env: Mapping[str, Any]) -> Any:
        found: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values):
            value = self.value(item, module, env)
            found |= {self.value(key, module, env): value} if key else value if isinstance(value, dict) else {"type": UNKNOWN}
        return found

    def _computed(self, node: ast.BinOp | ast.UnaryOp, module: str, env: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.UnaryOp):
            number = self.value(node.operand, module, env)
            return -number if isinstance(node.op, ast.USub) and isinstance(number, (int, float)) else UNKNOWN
        left, right = self.value(node.left, module, env), self.value(node.right, module, env)
        try:
            return OPERATORS[type(node.op)](left, right)
        except (KeyError, TypeError):
            return UNKNOWN

    def _call(self, node: ast.Call, module: str, env: Mapping[str, Any]) -> Any:
        positional = self._list(node.args, module, env)
        if isinstance(node.func, ast.Attribute):
            return self._method_call(node, node.func, positional, module, env)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        first = positional[0] if positional else UNKNOWN
        if name == "super":
            return env.get("cls", UNKNOWN)
        if isinstance(first, Class) and name in ("get_kwargs", "get_field"):
            return self.arguments_of(first) if name == "get_kwargs" else self.default(first, positional[1])
        if name == "get_args":
            return list(self._members(node.args[0], module))
        if name in ("optional_type", "parse_type", "list", "sorted"):
            return first
        return UNKNOWN

    def _method_call(self, node: ast.Call, method: ast.Attribute, positional: Any, module: str, env: Mapping[str, Any]) -> Any:
        owner = self.value(method.value, module, env)
        if method.attr == "add_argument":
            self._add_argument(positional, node.keywords, module, env)
        elif isinstance(owner, Class):
            return self._method(owner, method.attr, positional, ast.unparse(method.value) == "super()")
        elif isinstance(owner, (str, list, dict)) and UNKNOWN not in positional:
            return getattr(owner, method.attr)(*positional)
        return UNKNOWN

    def _method(self, owner: Class, name: str, positional: Sequence[Any], of_parent: bool) -> Any:
        for parent in self.family(owner)[1 if of_parent else 0 :]:
            function = next((node for node in parent.node.body if isinstance(node, ast.FunctionDef) and node.name == name), None)
            if function:
                bound = any(ast.unparse(decorator) == "classmethod" for decorator in function.decorator_list)
                # a parent's own `super()` is looked up from the parent on
                values = [parent if of_parent else owner, *positional] if bound else positional
                return self.run(function.body, parent.module, dict(zip((arg.arg for arg in function.args.args), values)))
        return UNKNOWN

    def _add_argument(self, names: Sequence[Any], keywords: Sequence[ast.keyword], module: str, env: Mapping[str, Any]) -> None:
        spec: Spec = {}
        for keyword in keywords:
            value = self.value(keyword.value, module, env)
            if keyword.arg:
                spec[keyword.arg] = value
            else:
                spec |= value if isinstance(value, dict) else dict.fromkeys(("type", "choices", "default"), UNKNOWN)
        if spec.get("default") == Symbol("argparse.SUPPRESS"):
            del spec["default"]
        self.arguments.append(([name for name in names if isinstance(name, str)], spec))

    # configuration classes

    def family(self, owner: Class) -> list[Class]:
        """Return a class and its parents in these sources, the nearest first."""
        found = [owner]
        for base in owner.node.bases:
            parent = self.value(base, owner.module, {})
            found += self.family(parent) if isinstance(parent, Class) else []
        return found

    def fields(self, owner: Class) -> dict[str, tuple[Class, ast.AnnAssign, str]]:
        """Return a class's fields: name -> the class that has it, its declaration, the text under it."""
        found = {}
        for parent in reversed(self.family(owner)):
            for node, after in zip(parent.node.body, [*parent.node.body[1:], None]):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                    if not ast.unparse(node.annotation).startswith(("ClassVar", "InitVar")):
                        found[node.target.id] = (parent, node, str(text))
        return found

    def default(self, owner: Class, name: str) -> Any:
        """Return the default of a class's field."""
        if name not in self.fields(owner):
            return UNKNOWN
        where, field, _ = self.fields(owner)[name]
        node = field.value
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("field", "Field")):
            return self.value(node, where.module, {})
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        factory = keywords.get("default_factory")
        if isinstance(factory, ast.Lambda):
            return self.value(factory.body, where.module, {})
        if isinstance(factory, ast.Name):
            return {"list": [], "dict": {}}.get(factory.id, UNKNOWN)
        return self.value(keywords.get("default", node.args[0] if node.args else None), where.module, {})

    def arguments_of(self, owner: Class) -> dict[str, Spec]:
        """Return what vLLM's get_kwargs makes of a configuration class: field -> the keywords of its argument."""
        return {
            name: self._argument(name, self.hints(field.annotation, where.module), self.default(owner, name), text)
            for name, (where, field, text) in self.fields(owner).items()
        }

    def _argument(self, name: str, hints: Sequence[Hint], default: Any, text: str) -> Spec:
        by_name = {hint.name: hint for hint in hints}
        spec: Spec = {"default": copy.deepcopy(default), "help": text}
        collection = next((by_name[each] for each in ("tuple", "list", "set") if each in by_name), None)
        if LOST.name in by_name:
            spec |= {"type": UNKNOWN, "choices": UNKNOWN}
        elif "dataclass" in by_name:
            spec["type"] = Symbol("parse_dataclass")
        elif set(by_name) == {"bool", "str", "None"} and "?" in self.named_by_rules:
            spec["nargs"] = "?"
        elif "bool" in by_name:
            spec["action"] = Symbol("argparse.BooleanOptionalAction")
        elif "Literal" in by_name:
            spec |= self._literal(hints)
        elif collection:
            element: tuple[Hint, ...] = next(iter(collection.inside), ())
            fixed = collection.name == "tuple" and Hint("...") not in [hint for part in collection.inside for hint in part]
            spec |= {"nargs": len(collection.inside) if fixed else "+"}
            spec |= self._literal(element) if any(hint.name == "Literal" for hint in element) else {}
            spec.setdefault("type", Symbol(element[0].name) if len(element) == 1 else Symbol("str"))
        elif "int" in by_name:
            sized = "human_readable_int" if name in self.named_by_rules else "int"
            spec["type"] = Symbol(sized)
        elif "float" in by_name:
            spec["type"] = Symbol("float")
        elif "dict" in by_name and not set(by_name) - {"dict", "None"}:
            spec["type"] = Symbol("json.loads")
        return spec

    @staticmethod
    def _literal(hints: Sequence[Hint]) -> Spec:
        values = next(hint.inside for hint in hints if hint.name == "Literal")
        open_ended = any(hint.name == "str" for hint in hints)
        return {"type": Symbol(type(values[0]).__name__), **({} if open_ended else {"choices": list(values)})}

    def hints(self, node: ast.AST | Symbol, module: str) -> tuple[Hint, ...]:  # noqa: PLR0911 - one for each kind of node
        """Return the types that an annotation allows."""
        if node is LOST:
            return (Hint(LOST.name),)
        if isinstance(node, Symbol):
            return (Hint(node.name if node.name in ("bool", "int", "float", "str", "dict", "list", "tuple", "set") else "other"),)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return self.hints(ast.parse(node.value, mode="eval").body, module)
            return (Hint("None" if node.value is None else "..." if node.value is ... else "other"),)
        if isinstance(node, ast.BinOp):
            return self.hints(node.left, module) + self.hints(node.right, module)
        if isinstance(node, ast.Name):
            where, found = self.sources.find(module, node.id)
            return (Hint(self._class_kind(Class(where, found))),) if isinstance(found, ast.ClassDef) else self.hints(found, where)
        if isinstance(node, ast.Subscript):
            name = ast.unparse(node.value).split(".")[-1]
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if name == "Literal":
                return (Hint(name, tuple(value for part in parts for value in self._members(part, module))),)
            if name in ("Annotated", "SkipValidation"):
                return self.hints(parts[0], module)
            if name in ("Optional", "Union"):
                none = (Hint("None"),) if name == "Optional" else ()
                return (*none, *(hint for part in parts for hint in self.hints(part, module)))
            if name.lower() in ("list", "tuple", "set", "dict"):
                return (Hint(name.lower(), tuple(self.hints(part, module) for part in parts)),)
        return (Hint("other"),)

    def _members(self, node: ast.expr, module: str) -> Iterator[Any]:
        """Yield the values of one part of a Literal, which may be another Literal."""
        nested = [] if isinstance(node, ast.Constant) else [hint for hint in self.hints(node, module) if hint.name == "Literal"]
        yield from (value for hint in nested for value in hint.inside) if nested else [self.value(node, module, {})]

    def _class_kind(self, found: Class) -> str:
        family = self.family(found)
        if any(ast.unparse(decorator).startswith(("config", "dataclass")) for each in family for decorator in each.node.decorator_list):
            return "dataclass"
        return "dict" if any(ast.unparse(base).split("[")[0] == "dict" for each in family for base in each.node.bases) else "other"


def from_files(release: str, files: Mapping[str, str]) -> dict[str, Any]:
    """Return the catalogue of a release from its sources (path in the wheel -> text)."""
    sources = Sources(files)
    found = ((module, sources.names(module).get("make_arg_parser")) for module in PARSER_MODULES)
    module, function = next(((module, node) for module, node in found if isinstance(node, ast.FunctionDef)), ("", None))
    if function is None:
        raise SystemExit(f"none of {PARSER_MODULES} makes the parser of vllm {release}: teach this tool where the release keeps it")
    reader = Reader(sources)
    reader.run(function.body, module, {})
    parsers = {}
    for key, (place, registry) in REGISTRIES.items():
        node = sources.names(place).get(registry)
        # releases before the registries are read for their flags' names alone
        parsers[key] = [str(reader.value(name, place, {})) for name in node.keys] if isinstance(node, ast.Dict) else []
    return catalogue(release, reader.arguments, parsers)


def from_wheel(wheel: Path) -> dict[str, Any]:
    """Return the catalogue of the release in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("vllm/") and name.endswith(".py")]
        files = {name: archive.read(name).decode() for name in names}
    return from_files(wheel.name.split("-")[1].split("+")[0], files)


def from_release(release: str) -> dict[str, Any]:
    """Download a release's wheel by the operator's own package settings, and return its catalogue."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
        command += ["--implementation", "cp", "--abi", "abi3", *platforms, "--dest", folder, f"vllm=={release}"]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"pip (above) could not download vllm {release} for {' or '.join(PLATFORMS)}.")
        return from_wheel(next(Path(folder).glob("*.whl")))


# the files


def dump(data: Mapping[str, Any]) -> str:
    """Return JSON with one flag or name per line, so that a difference between releases reads well."""
    parts = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines = [f"  {json.dumps(name)}: {json.dumps(item, ensure_ascii=False)}" for name, item in value.items()]
        elif isinstance(value, list):
            lines = [f"  {json.dumps(item)}" for item in value]
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
            continue
        opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
        parts.append(f" {json.dumps(key)}: {opening}\n" + ",\n".join(lines) + f"\n {closing}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def age(release: str) -> list[int]:
    """Return what orders releases: 0.8.5.post1 comes after 0.8.5, and 0.10.0 after both."""
    return [int(number) for number in re.findall(r"\d+", release)]


def remember(history: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the history with a release's names in it: each flag's first and last release among those read."""
    release, flags = found["release"], dict(history["flags"])
    names = [name for flag, said in found["flags"].items() for name in (flag, *said.get("aliases", ()))]
    for name in names:
        both = sorted([*flags.get(name, ()), release], key=age)
        flags[name] = [both[0], both[-1]]
    releases = sorted({*history["releases"], release}, key=age)
    return {"releases": releases, "flags": dict(sorted(flags.items()))}


def main() -> int:
    """Print or write the catalogue of one release; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--release", metavar="X.Y.Z", help="download this release's wheel and read it")
    source.add_argument("--wheel", type=Path, metavar="FILE", help="read the sources in this wheel")
    source.add_argument("--installed", action="store_true", help="ask the vllm of this Python")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--write", action="store_true", help=f"write it to {FOLDER.name}/RELEASE.json and into history.json")
    target.add_argument("--names-only", action="store_true", help="write its names into history.json, and nothing else")
    wanted = parser.parse_args()
    found = installed() if wanted.installed else from_wheel(wanted.wheel) if wanted.wheel else from_release(wanted.release)
    if not (wanted.write or wanted.names_only):
        print(dump(found), end="")
        return 0
    if wanted.write:
        empty = [key for key in REGISTRIES if not found[key]]
        if empty:
            raise SystemExit(f"vllm {found['release']} has no {' or '.join(empty)} where this tool looks: only its names can be kept")
        (FOLDER / f"{found['release']}.json").write_text(dump(found), encoding="utf-8")
    file = FOLDER / "history.json"
    history = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"releases": [], "flags": {}}
    file.write_text(dump(remember(history, found)), encoding="utf-8")
    counts = ", ".join(f"{len(found[key])} {key.replace('_', ' ')}" for key in ("flags", *REGISTRIES))
    print(f"vllm {found['release']}: {counts}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
