"""The house: which folder may import from which, and whose names are private (CONTRIBUTING.md)."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from floors import FLOORS

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` with no name."""

    source: str
    line: int
    module: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.module} ({self.name})"


def module_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> Iterator[tuple[str, Path]]:
    for package in ("distillens_plugin", "eval_harness"):
        for path in sorted((REPO / package).rglob("*.py")):
            yield module_of(path), path


def imports() -> Iterator[Import]:
    for source, path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{source}: write imports out in full"
                for alias in node.names:
                    yield Import(source, node.lineno, node.module, alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(source, node.lineno, alias.name, None)


def floor_of(house: str, module: str) -> int | None:
    """The place of a module in its house's list; None: it is of no house, or is its face."""
    if not module.startswith(f"{house}."):
        return None
    inside = module.removeprefix(f"{house}.")
    matches = [n for n, part in enumerate(FLOORS[house]) if f"{inside}.".startswith(f"{part}.")]
    if matches:
        return max(matches, key=lambda n: len(FLOORS[house][n]))
    return None


MODULES = {module for module, _ in sources()}


def target_of(found: Import) -> str:
    """The module that is imported, where the name is one."""
    whole = f"{found.module}.{found.name}"
    return whole if whole in MODULES else found.module


@pytest.mark.parametrize("house", FLOORS)
def test_each_part_imports_only_from_those_below_it(house: str) -> None:
    wrong = []
    for found in imports():
        here, there = floor_of(house, found.source), floor_of(house, target_of(found))
        if here is not None and there is not None and there < here:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("house", FLOORS)
def test_every_part_has_its_place_and_says_what_it_answers(house: str) -> None:
    folder = REPO / house.replace(".", "/")
    found = {path.parent.name for path in folder.glob("*/__init__.py")}
    named = {part.split(".")[0] for part in FLOORS[house]}
    assert not found - named
    for part in found:
        text = (folder / part / "__init__.py").read_text(encoding="utf-8")
        assert (ast.get_docstring(ast.parse(text)) or "").split("\n")[0].endswith((".", ":"))


def test_no_module_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in imports():
        target = target_of(found)
        if target in MODULES and target != found.source:
            graph[found.source].add(target)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                walk(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


def test_private_names_stay_in_their_module() -> None:
    ours = ("distillens_plugin", "eval_harness")
    wrong = [
        str(found)
        for found in imports()
        if found.module.split(".")[0] in ours
        and (found.name or "").startswith("_")
        and not (found.name or "").startswith("__")
    ]
    assert not wrong, "\n".join(wrong)


def test_distillens_reaches_eval_harness_only_through_its_face_and_its_shared_part() -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.source.startswith("distillens_plugin")
        and (target := target_of(found)).startswith("eval_harness.")
        and not target.startswith(("eval_harness.shared", "eval_harness.errors"))
    ]
    assert not wrong, "\n".join(wrong)


def test_eval_harness_knows_nothing_of_distillens() -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.source.startswith("eval_harness")
        and found.module.split(".")[0] == "distillens_plugin"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_root_of_a_package_holds_only_faces() -> None:
    roots = {
        "distillens_plugin": {"__init__", "cli", "run"},
        "eval_harness": {"__init__", "__main__", "api", "cli", "errors"},
    }
    for package, faces in roots.items():
        assert {path.stem for path in (REPO / package).glob("*.py")} == faces
    for face in ("cli", "run"):
        text = (REPO / "distillens_plugin" / f"{face}.py").read_text(encoding="utf-8")
        assert text.count("\n") < 60


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {module: path.read_text("utf-8").count("\n") for module, path in sources()}
    assert not {module: length for module, length in lengths.items() if length > 300}


def test_only_the_integration_registers_with_torchdistill() -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.module.startswith("torchdistill") and (found.name or "").startswith("register_")
    ]
    assert not wrong, "\n".join(wrong)
    registering = [
        module
        for module, path in sources()
        if "register_mid_level_loss" in path.read_text(encoding="utf-8")
    ]
    # The table of names says by which function; the integration calls it.
    assert registering == ["distillens_plugin.recipe.schema.names"]
