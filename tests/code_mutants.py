"""Mutants of a Python program: one small change each, most of which change what it does."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
}


def mutants(code: str) -> Iterator[str]:
    """Variants of a program, each with one change: the subtle ones first, `return None` last."""
    tree = ast.parse(code)
    for index, node in enumerate(ast.walk(tree)):
        for change in range(_num_changes(node)):
            mutant = copy.deepcopy(tree)
            _change(list(ast.walk(mutant))[index], change)
            yield ast.unparse(ast.fix_missing_locations(mutant))
    for index, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.Return):
            mutant = copy.deepcopy(tree)
            found = list(ast.walk(mutant))[index]
            assert isinstance(found, ast.Return)
            found.value = ast.Constant(None)
            yield ast.unparse(ast.fix_missing_locations(mutant))


def _num_changes(node: ast.AST) -> int:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
            return 1
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            return 1
        case ast.Constant(value=bool()) | ast.Constant(value=int()) | ast.BoolOp():
            return 1
        case ast.UnaryOp(op=ast.Not()):
            return 1
    return 0


def _change(node: ast.AST, change: int) -> None:
    match node:
        case ast.Compare():
            node.ops = [_COMPARISONS[type(node.ops[0])]()]
        case ast.BinOp():
            node.op = _OPERATORS[type(node.op)]()
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=int() as value):
            node.value = value + 1
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.UnaryOp():
            node.op = ast.UAdd()
