"""Read the rooms of the package and who imports whom, from the sources alone.

``python -m tests.rooms [ROOT]`` counts rooms, arrows and circles of a tree; ``--mermaid`` draws the rooms.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = "recbole_siger"

# From top to bottom: a module imports only from rooms above its own, and from its own.
ROOMS = (
    "errors",
    "compat",
    "options",
    "common",
    "parallel",
    "evaluation",
    "registry",
    "rules",
    "defaults",
    "config",
    "runs",
    "graph",
    "data",
    "model",
    "training",
    "quick_start",
    "recommend",
    "serve",
    "prepare",
    "extract",
    "profiles",
    "report",
    "tuning",
    "studies",
    "reproduce",
    "audit",
    "testing",
    "cli",
    "__main__",
)

Arrows = dict[str, set[str]]


@cache
def modules(root: Path) -> dict[str, Path]:
    """Return ``{dotted name below the package: file}``; a package stands under its own name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Yield module, statement and whether it is inside a function, for each import of ours in a file."""
    for name, node, inside in _import_statements(path):
        dotted = name.removeprefix(f"{PACKAGE}.")
        if dotted == name:
            continue
        while dotted and dotted not in known:
            dotted = dotted.rpartition(".")[0]
        if dotted:
            yield dotted, node, inside


@cache
def _import_statements(path: Path) -> list[tuple[str, ast.stmt, bool]]:
    """Return imported name, statement and whether it is inside a function, for each absolute import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found: list[tuple[str, ast.stmt, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node, id(node) in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [(f"{node.module}.{alias.name}", node, id(node) in inside) for alias in node.names]
    return found


def module_arrows(root: Path) -> Arrows:
    """Return ``{module: modules that it imports}``, those imported inside functions included."""
    known = modules(root)
    return {name: {to for to, _, _ in imports(path, known)} - {name} for name, path in known.items()}


def room_of(module: str) -> str:
    """Return the room of a module: its first name."""
    return module.partition(".")[0]


def room_arrows(root: Path) -> Arrows:
    """Return ``{room: rooms that it imports from}``."""
    found: Arrows = {}
    for module, targets in module_arrows(root).items():
        room = found.setdefault(room_of(module), set())
        room |= {room_of(to) for to in targets} - {room_of(module)}
    return found


def circles(arrows: Arrows) -> list[list[str]]:
    """Return the groups of more than one name that reach each other, sorted."""

    def reach(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for to in arrows.get(todo.pop(), ()):
                if to not in seen:
                    seen.add(to)
                    todo.append(to)
        return seen

    reached = {name: reach(name) for name in arrows}
    groups = {
        tuple(sorted({name} | {to for to in reached[name] if name in reached.get(to, ())}))
        for name in arrows
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def mermaid(root: Path) -> str:
    """Draw the rooms as a mermaid graph; an arrow that others imply is left out."""
    arrows = room_arrows(root)
    order = [room for room in ROOMS if room in arrows]

    def below(room: str, skip: str) -> set[str]:
        todo, seen = [one for one in arrows[room] if one != skip], set()
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += arrows.get(one, ())
        return seen

    lines = ["graph BT"]
    for room in order:
        for to in sorted(arrows[room], key=order.index):
            if to not in below(room, to):
                lines.append(f"    {room} --> {to}")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Print the counts, or the picture."""
    root = Path(next((word for word in words if not word.startswith("-")), "."))
    if "--mermaid" in words:
        print(mermaid(root))
        return
    by_room, by_module = room_arrows(root), module_arrows(root)
    known = modules(root)
    hidden = sum(inside for path in known.values() for _, _, inside in imports(path, known))
    print(f"rooms {len(by_room)}, arrows between rooms {sum(map(len, by_room.values()))}")
    print(f"modules {len(by_module)}, arrows between modules {sum(map(len, by_module.values()))}")
    print(f"circles of rooms {circles(by_room) or 0}")
    print(f"circles of modules {circles(by_module) or 0}")
    print(f"imports of ours inside functions {hidden}")


if __name__ == "__main__":
    main(sys.argv[1:])
