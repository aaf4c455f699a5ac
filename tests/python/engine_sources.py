"""Classes of Python sources that cannot be imported here, as their syntax trees say: what they define and with which arguments."""

import ast
import pathlib


def class_in(path, name):
    """The syntax tree of a class in a file."""
    tree = ast.parse(pathlib.Path(path).read_text(encoding="utf-8"))
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)


def methods_of(tree):
    """Functions of a class or a module by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def arguments(function):
    """Names and defaults, in order; annotations do not count."""
    given = function.args
    plain = [arg.arg for arg in given.posonlyargs + given.args]
    defaults = [ast.unparse(default) for default in given.defaults]
    return {
        "plain": plain,
        "defaults": dict(zip(plain[len(plain) - len(defaults) :], defaults, strict=True)),
        "named": [arg.arg for arg in given.kwonlyargs],
        "rest": [arg.arg if arg else None for arg in (given.vararg, given.kwarg)],
    }


def abstract_methods(tree):
    return {name for name, node in methods_of(tree).items() if any("abstractmethod" in ast.unparse(d) for d in node.decorator_list)}


def attributes_of(tree):
    """Names that a class declares, assigns to self, or defines."""
    names = set(methods_of(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) or (isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"):
                    names.add(target.id if isinstance(target, ast.Name) else target.attr)
    return names


def check_overrides(ours, base):
    """Asserts that every abstract method is there and that every overridden method takes what the base's takes."""
    mine, theirs = methods_of(ours), methods_of(base)
    missing = abstract_methods(base) - set(mine)
    assert not missing, f"{ours.name} lacks {sorted(missing)}"
    for name in set(mine) & set(theirs):
        assert arguments(mine[name]) == arguments(theirs[name]), f"{ours.name}.{name}"
