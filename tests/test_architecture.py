import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "configuration": set(),
    "modeling_chatformer": {"configuration"},
    "storage": {"configuration", "modeling_chatformer"},
    "data": {"configuration", "modeling_chatformer", "storage"},
    "chat": {"configuration", "modeling_chatformer", "storage"},
    "evaluation": {"configuration", "modeling_chatformer", "storage", "data", "chat"},
    "training": {"configuration", "modeling_chatformer", "storage", "data", "evaluation"},
    "hub": {"configuration", "modeling_chatformer", "storage", "chat"},
    "cli": {"configuration", "modeling_chatformer", "storage", "data", "chat", "evaluation", "training", "hub"},
}

# The installed model's `push_to_hub` asks the hub, by name and only when it is called. Nothing else points up.
POINTS_UP = ("modeling_chatformer/registration.py", "chatformer.hub.stock_push.push_to_hub")

IN_READING_ORDER = [
    *("configuration", "modeling_chatformer", "storage", "data", "chat", "chat/engines", "chat/serving"),
    "chat/web",
    *("evaluation", "evaluation/doctor", "evaluation/plots", "training", "hub", "hub/formats", "cli"),
]

SOURCES = [path.relative_to(ROOT) for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def modules_named_in(source, package):
    """Yield the full name of whatever a source file of `package` imports, or names in a text as a lazy import does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"chatformer(\.\w+)+(:\w+)?", node.value)
        ):
            yield node.value.replace(":", ".")


def package_of(folder):
    """The package that a room's folder is, such as chatformer.hub.formats; the model's folder is chatformer itself."""
    return ".".join(["chatformer", *(part for part in Path(folder).parts if part != "modeling_chatformer")])


def modules_named_by(path):
    """The full names of what a file of the product imports."""
    names = modules_named_in((ROOT / path).read_text("utf-8"), package_of(path.parent))
    return {name for name in names if (path.as_posix(), name) != POINTS_UP}


def rooms_of(names, folder):
    """Yield the rooms of the modules that a file in `folder`, such as hub or hub/formats, names."""
    for name in names:
        top, _, rest = name.partition(".")
        if top == "chatformer":
            inner = rest.split(".")[0]
            # The package's root is the model's folder.
            yield inner if inner in MAY_IMPORT else "modeling_chatformer"
        # Only from a checkout's root would the folders be found by these names.
        assert top not in MAY_IMPORT, name


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_no_import_points_up_or_sideways(source):
    folder = source.parts[0]
    assert set(rooms_of(modules_named_by(source), source.parent)) <= MAY_IMPORT[folder] | {folder}


def test_the_one_name_that_points_up_is_in_use():
    file, name = POINTS_UP
    assert name in modules_named_in((ROOT / file).read_text("utf-8"), "chatformer")


def imports_between(sources):
    """By module, the other modules of the product that it names, from each module's names."""
    imports = {}
    for module, names in sources.items():
        found = set()
        for name in names:
            # A name may be that of a module, or of something in it.
            while name and name not in sources:
                name = name.rpartition(".")[0]
            found.add(name)
        imports[module] = found - {"", module}
    return imports


def ring_in(imports):
    """The modules of a ring, the first of them at both ends; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def module_of(path):
    package = package_of(path.parent)
    return package if path.stem == "__init__" else f"{package}.{path.stem}"


def test_no_files_import_each_other_in_a_ring():
    ring = ring_in(imports_between({module_of(path): modules_named_by(path) for path in SOURCES}))
    assert not ring, " is imported by ".join(ring)


@pytest.mark.parametrize(
    ("source", "is_ring"),
    [
        ("from .engines import Engine", False),
        ("from .lines import main", True),
        ("def f():\n    from chatformer.chat import lines", True),
        ("if TYPE_CHECKING:\n    from .lines import main", True),
        ("name = 'chatformer.chat.lines:main'", True),
        ("from chatformer.cli.generate import main", True),
        ("import torch", False),
    ],
)
def test_this_test_sees_every_kind_of_ring(source, is_ring):
    names = {
        "chatformer.chat.engines": [],
        "chatformer.chat.chatbot": list(modules_named_in(source, "chatformer.chat")),
        "chatformer.chat.lines": ["chatformer.chat.chatbot.Chatbot", "chatformer.chat.engines.Engine"],
        "chatformer.cli.generate": ["chatformer.chat.lines.main"],
    }
    assert bool(ring_in(imports_between(names))) == is_ring


def table_of_contents(folder):
    """Return the files that the docstring of a room lists, one a line, in their order."""
    docstring = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8")))
    return re.findall(r"^    (\w+)  +\S", docstring, re.MULTILINE)


@pytest.mark.parametrize("folder", IN_READING_ORDER)
def test_a_room_lists_its_files_and_their_imports_point_up(folder):
    listed, package = table_of_contents(folder), package_of(folder)
    files = {path.stem: [path] for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    # A folder of its own is listed like a file.
    files |= {path.parent.name: list(path.parent.glob("*.py")) for path in (ROOT / folder).glob("*/__init__.py")}
    assert sorted(listed) == sorted(files)
    for number, file in enumerate(listed):
        for path in files[file]:
            names = modules_named_by(path.relative_to(ROOT))
            imported = {
                name.removeprefix(f"{package}.").split(".")[0] for name in names if name.startswith(f"{package}.")
            }
            if folder == "modeling_chatformer":
                # The other rooms lie within the package too; which of them it may import is tested above.
                imported &= {*listed}
            assert imported <= {*listed[:number], *([] if path.stem == file else [file])}, file


@pytest.mark.parametrize(
    ("folder", "source", "expected"),
    [
        ("training", "import chatformer.chat.chatbot as c", {"chat"}),
        ("training", "from chatformer import hub", {"hub"}),
        ("training", "from chatformer import ChatformerConfig", {"modeling_chatformer"}),
        ("training", "from chatformer.conversation import x", {"modeling_chatformer"}),
        ("training", "from .batches import x", {"training"}),
        ("training", "from ..chat.chatbot import x", {"chat"}),
        ("hub/formats", "from .parity import x", {"hub"}),
        ("hub/formats", "from ..errors import x", {"hub"}),
        ("hub/formats", "from ...chat.chatbot import x", {"chat"}),
        ("modeling_chatformer", "resolve_name('chatformer.hub.stock_push:push_to_hub')", {"hub"}),
        ("training", "def f():\n    import_module('chatformer.chat')", {"chat"}),
        ("modeling_chatformer", "from .training import x", {"training"}),
        ("modeling_chatformer", "from . import attention", {"modeling_chatformer"}),
        ("configuration", "from chatformer import sized_config", {"modeling_chatformer"}),
        ("data", "from chatformer.configuration.training import TrainingSettings", {"configuration"}),
        ("data", "from chatformer.training import records", {"training"}),
        ("training", "from chatformer.data.batches import x", {"data"}),
        ("evaluation/doctor", "from chatformer.training.train import train", {"training"}),
        ("evaluation/doctor", "from ..scoring import x", {"evaluation"}),
        ("chat", "from chatformer.training.train import train", {"training"}),
        ("chat", "import torch, os.path\nfrom transformers import x", set()),
    ],
)
def test_this_test_sees_every_kind_of_import(folder, source, expected):
    assert set(rooms_of(modules_named_in(source, package_of(folder)), folder)) == expected


def test_the_house_has_its_rooms_and_no_others():
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "chatformer").exists()
    for folder in MAY_IMPORT.keys() - {"modeling_chatformer"}:
        # It would hide the folder of that name, which is mapped to the same place.
        assert not (ROOT / "modeling_chatformer" / f"{folder}.py").exists()
        assert not (ROOT / "modeling_chatformer" / folder).exists()
    assert {path.name for path in ROOT.glob("*.py")} == set()


MOST_LINES = 350
MOST_LINES_OF_THE_FRONT_DOOR = 400


def num_lines(path):
    return len((ROOT / path).read_text("utf-8").splitlines())


def test_a_file_is_read_at_one_sitting():
    assert {path.as_posix(): num_lines(path) for path in SOURCES if num_lines(path) > MOST_LINES} == {}


def test_the_front_door_is_thin():
    assert sum(num_lines(path) for path in SOURCES if path.parts[0] == "cli") <= MOST_LINES_OF_THE_FRONT_DOOR


def test_tests_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []
