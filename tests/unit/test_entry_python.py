"""What a foreign loop's interpreter reads of ours, as old as that may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 10)
NEWER = {
    "typing": {"LiteralString", "Never", "NotRequired", "Required", "Self", "TypeVarTuple", "Unpack", "assert_never"},
    "enum": {"ReprEnum", "StrEnum", "verify"},
    "datetime": {"UTC"},
    "contextlib": {"chdir"},
}


class TopLevel(ast.NodeVisitor):
    """The imports of a module that are carried out: those for a type checker are not."""

    def __init__(self) -> None:
        self.imported: list[tuple[str, str]] = []

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imported += [(node.module or "", alias.name) for alias in node.names]


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def reached() -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """All that `trainer.entry` imports of ours, and so on."""
    waiting = sorted((ROOT / "trainer/entry").glob("*.py"))
    met: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in met:
            continue
        met.add(file)
        visitor = TopLevel()
        visitor.visit(ast.parse(file.read_text(), feature_version=OLDEST))
        yield file, visitor.imported
        modules = {name for module, item in visitor.imported for name in (module, f"{module}.{item}")}
        waiting += [path for name in modules if name.startswith("trainer.") and (path := file_of(name))]


def test_a_foreign_loop_s_interpreter_may_be_of_python_3_10() -> None:
    files = dict(reached())
    assert ROOT / "trainer/memory/allocation.py" in files
    for file, imported in files.items():
        too_new = [name for module, name in imported if name in NEWER.get(module, ())]
        assert not too_new, f"{file} needs a Python newer than {OLDEST}"
    with pytest.raises(SyntaxError):
        ast.parse("try: ...\nexcept* ValueError: ...", feature_version=OLDEST)
