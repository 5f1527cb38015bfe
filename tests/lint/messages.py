"""Collects every message of an error from the code, as people see it, with … for what varies."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

from pgsplit.base import errors
from pgsplit.base.errors import ConnectionFailed, SplitError
from pgsplit.postgres.refusals import NO_ANSWER, REFUSALS, UNREACHABLE

ENGINE = Path(errors.__file__).parents[1]
ANY = "…"
# What a `Need` is made of, in this order: `check` reports its problem and hint.
PROBLEM, HINT = 4, 5
# A text, its place, the exit code if it is known here, and the hint.
Found = tuple[str, str, int | None, str]


@dataclass
class Message:
    """A message, where it is made, the exit codes that it may end with, and the hint beside it."""

    text: str
    places: list[str] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)
    hint: str = ""


@cache
def collect() -> dict[str, Message]:
    """Find all messages by their text: of Python, of SQL and of dbt's macros.

    In Python these are an error's first argument, what `add(what, hint)` gets, the problem of a
    `Need`, a pair of a sentence and its hint, and why a server refuses a login. A message without a
    word of its own passes on one of these, or what a program or a server said.
    """
    found: dict[str, Message] = {}
    for text, place, code, hint in [*_of_servers(), *_of_sql(), *_of_python()]:
        if re.search("[A-Za-z]", text):
            one = found.setdefault(text, Message(text))
            one.places.append(place)
            one.codes |= {code} - {None}
            one.hint = one.hint or hint
    return found


def _of_servers() -> Iterator[Found]:
    for what, hint in [*((what, hint) for _, what, hint, _ in REFUSALS), (NO_ANSWER, UNREACHABLE)]:
        yield tidy(what), "pgsplit/postgres/refusals.py", ConnectionFailed.exit_code, hint


def _of_sql() -> Iterator[Found]:
    for file in sorted(ENGINE.rglob("*.sql")):
        for text in _in_sql(file.read_text("utf-8")):
            yield text, f"pgsplit/{file.relative_to(ENGINE)}", None, ""


def _of_python() -> Iterator[Found]:
    trees = {file: ast.parse(file.read_text("utf-8")) for file in sorted(ENGINE.rglob("*.py"))}
    codes = _exit_codes(trees.values())
    for file, tree in trees.items():
        for node, function in _nodes(tree):
            place = f"pgsplit/{file.relative_to(ENGINE)}:{getattr(node, 'lineno', 0)}"
            for what, hint, code in _said(node, codes):
                hints = _texts(hint, function) if hint else [""]
                yield from ((text, place, code, hints[0]) for text in _texts(what, function))


def _in_sql(sql: str) -> Iterator[str]:
    """Give the messages that PL/pgSQL raises, and those with which a macro of dbt stops."""
    for found in re.finditer(
        r"(?:message = |raise exception )(?:format\(\s*)?'((?:[^']|'')+)'", sql
    ):
        yield tidy(re.sub(r"%[sI]?|{{.*?}}", ANY, found[1].replace("''", "'")))
    for found in re.finditer(r"raise_compiler_error\((.*?)\)\s*%}", sql, re.DOTALL):
        parts = re.split(r"\s*~\s*", found[1].strip())
        yield tidy("".join(one[1:-1] if one[0] == '"' else ANY for one in parts))


def _nodes(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.AST]]:
    """Give each expression with the innermost function around it."""
    stack = [(tree, tree)]
    while stack:
        node, function = stack.pop()
        if isinstance(node, ast.FunctionDef):
            function = node
            function.tree = tree  # type: ignore[attr-defined]
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            pair = ast.Tuple([node.targets[0].slice, node.value])
            yield ast.copy_location(pair, node), function
        if isinstance(node, ast.expr):
            yield node, function
        stack += [(child, function) for child in ast.iter_child_nodes(node)]


def _said(
    node: ast.expr, codes: dict[str, int]
) -> Iterator[tuple[ast.expr, ast.expr | None, int | None]]:
    """Give the message that an expression makes, its hint, and the exit code."""
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        what, hint = node.elts
        if _is_sentence(what) and not isinstance(hint, ast.Lambda):
            yield what, hint, None  # the code is that of the error that lists it
    if not isinstance(node, ast.Call):
        return
    named = {one.arg: one.value for one in node.keywords}
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    if name in codes and node.args:
        is_any = name == SplitError.__name__  # the code is given elsewhere then
        yield node.args[0], named.get("hint"), None if is_any else codes[name]
    elif name == "add" and len(node.args) in (2, 3) and not isinstance(node.args[0], ast.List):
        yield node.args[0], node.args[1], codes["NotReady"]
    elif name == "Need":
        places = dict(enumerate(node.args))
        problem = named.get("problem", places.get(PROBLEM))
        if problem:
            yield problem, named.get("hint", places.get(HINT)), codes["NotReady"]


def _is_sentence(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.Constant) and any(
        text.count(" ") > 2 and "select" not in text and text[-1] != ";"
        for text in _texts(node, node)
    )


def _texts(node: ast.expr, function: ast.AST) -> list[str]:
    """Give all that an expression may say."""
    return list(dict.fromkeys(tidy(text) for text in _spell(node, function, 3)))


def tidy(text: str) -> str:
    """Join lines, and let what varies be one mark, as on the page."""
    text = " ".join(text.replace("\\n", " ").replace("\n  - ", " ").split())
    text = re.sub(rf"{ANY}(?:[\s,;]*{ANY})+", ANY, text)
    return text.rstrip(f" .:{ANY}")


def _spell(node: ast.expr, function: ast.AST, depth: int) -> list[str]:
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(one) for one in product(*(_part(p, function, depth) for p in node.values))]
    if isinstance(node, ast.IfExp):
        return [*_spell(node.body, function, depth), *_spell(node.orelse, function, depth)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = (_spell(one, function, depth) for one in (node.left, node.right))
        return ["".join(pair) for pair in product(*parts)]
    if isinstance(node, ast.Name) and depth:
        given = list(_assigned(node.id, function))
        end = ANY if _is_extended(node.id, function) else ""
        if given:
            return [f"{text}{end}" for one in given for text in _spell(one, function, depth - 1)]
    return [ANY]


def _part(node: ast.expr, function: ast.AST, depth: int) -> list[str]:
    """Give what a part of an f-string may say: a sentence that is composed, or what varies."""
    if not isinstance(node, ast.FormattedValue):
        return _spell(node, function, depth)
    found = _spell(node.value, function, depth) if isinstance(node.value, ast.Name) else []
    return [text for text in found if text.count(" ") > 1] or [ANY]


def _assigned(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """Give what a name stands for in a function: what it is assigned, or given as an argument."""
    yield from _arguments(name, function)
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=True):
                    if isinstance(one, ast.Name) and one.id == name:
                        yield value


def _arguments(name: str, function: ast.AST) -> Iterator[ast.expr]:
    if not isinstance(function, ast.FunctionDef):
        return
    names = [one.arg for one in function.args.args if one.arg != "self"]
    for node in ast.walk(function.tree) if name in names else ():  # type: ignore[attr-defined]
        called = getattr(node, "func", None)
        if getattr(called, "id", getattr(called, "attr", "")) == function.name:
            yield from node.args[names.index(name) :][:1]


def _is_extended(name: str, function: ast.AST) -> bool:
    """Tell whether something is added to a name with +=."""
    nodes = (node for node in ast.walk(function) if isinstance(node, ast.AugAssign))
    return any(isinstance(one.target, ast.Name) and one.target.id == name for one in nodes)


def _exit_codes(trees: Iterable[ast.AST]) -> dict[str, int]:
    """Name each class of errors, with its exit code."""
    found = {SplitError.__name__: SplitError.exit_code}
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while True:
        new = dict(found)
        for one in classes:
            for base in one.bases:
                parent = getattr(base, "id", getattr(base, "attr", ""))
                if parent in found:
                    new[one.name] = _own_code(one, found[parent])
        if new == found:
            return found
        found = new


def _own_code(node: ast.ClassDef, inherited: int) -> int:
    for one in node.body:
        if isinstance(one, ast.Assign) and getattr(one.targets[0], "id", "") == "exit_code":
            return int(ast.literal_eval(one.value))
    return inherited
