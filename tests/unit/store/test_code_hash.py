"""A stage's code is what its roots use, and nothing else: edits that count change it, others do not."""

import shutil
from importlib import invalidate_caches

import pytest

from store import code_hash
from store.code_hash import CodeBase, stage_code
from utils.errors import ConfigError

BASE = '''"""A module."""

import math

LIMIT = 3


def helper(x: float) -> float:
    """Half of it."""
    return x / 2


class Thing:
    """A thing."""

    def size(self) -> float:
        """Its size."""
        return helper(LIMIT) + math.pi


def root() -> float:
    return Thing().size()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package of its own; returns the code that a root reaches."""
    monkeypatch.syspath_prepend(str(tmp_path))

    folder = tmp_path / "toypkg"

    def reached(root: str = "top:root", apart=(), **sources: str) -> dict[str, dict[str, str]]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for module, text in ({"__init__": ""} | sources).items():
            (folder / f"{module}.py").write_text(text)
        invalidate_caches()
        code_hash.forget()
        entries = [f"toypkg.{entry}" for entry in apart]
        return CodeBase(packages=("toypkg",)).reached([f"toypkg.{root}"], apart=entries)

    return reached


def names(found):
    return {f"{module}:{name}" for module, symbols in found.items() for name in symbols}


SAME = {
    "comments": BASE.replace("LIMIT = 3", "# how many\nLIMIT = 3  # three"),
    "docstrings": BASE.replace('"""A module."""', '"""Another text\n\nover lines.\n"""')
    .replace('"""Half of it."""', '"""x / 2."""')
    .replace('    """A thing."""\n', ""),
    "layout": BASE.replace("    return x / 2", "    return (\n        x\n        / 2\n    )").replace(
        "\n\n\n", "\n\n\n\n\n"
    ),
    "quotes and number bases": BASE.replace("LIMIT = 3", "LIMIT = 0x3"),
    "an unrelated function": BASE + "\n\ndef unrelated():\n    return LIMIT\n",
    "an unrelated constant": BASE + "\n\nOTHER = 5\n",
    "an unrelated import": BASE.replace("import math", "import math\nimport os"),
    "order": BASE.replace("LIMIT = 3\n", "") + "\n\nLIMIT = 3\n",
}
OTHER = {
    "a helper": BASE.replace("x / 2", "x / 4"),
    "a constant": BASE.replace("LIMIT = 3", "LIMIT = 4"),
    "an int that becomes a float": BASE.replace("LIMIT = 3", "LIMIT = 3.0"),
    "a default": BASE.replace("x: float)", "x: float = 1.0)"),
    "a decorator": BASE.replace("def helper", "@staticmethod\ndef helper"),
    "a name": BASE.replace("helper", "halved"),
    "a method": BASE.replace("+ math.pi", "- math.pi"),
    "a string that is no docstring": BASE.replace("LIMIT = 3", 'LIMIT = "3"'),
    "an import": BASE.replace("import math", "import cmath as math"),
    "what runs on import": BASE + "\n\nThing.size = helper\n",
    "a constant that is changed further down": BASE + "\n\nLIMIT += 1\n",
}


@pytest.mark.parametrize("what", SAME)
def test_text_layout_and_what_is_not_used_do_not_count(package, what):
    assert SAME[what] != BASE
    assert package(top=SAME[what]) == package(top=BASE)


@pytest.mark.parametrize("what", OTHER)
def test_whatever_computes_counts(package, what):
    assert OTHER[what] != BASE
    assert package(top=OTHER[what]) != package(top=BASE)


def test_docstrings_of_async_functions_do_not_count_either(package):
    with_text = 'async def root():\n    """Text."""\n    return 1\n'
    assert package(top=with_text) == package(top="async def root():\n    return 1\n")


FOLLOWED = {
    "an imported name": {"top": "from toypkg.deep import f\ndef root():\n    return f()\n"},
    "a relative import": {"top": "from .deep import f as g\ndef root():\n    return g()\n"},
    "an attribute of a module": {"top": "from toypkg import deep\ndef root():\n    return deep.f()\n"},
    "a dotted module": {"top": "import toypkg.deep\ndef root():\n    return toypkg.deep.f()\n"},
    "an import in a function": {"top": "def root():\n    from toypkg.deep import f\n    return f()\n"},
    "a module imported in a function": {"top": "def root():\n    from . import deep as d\n    return d.f()\n"},
    "a dotted import in a function": {"top": "def root():\n    import toypkg.deep\n    return toypkg.deep.f()\n"},
    "a re-export": {
        "top": "from toypkg.door import f\ndef root():\n    return f()\n",
        "door": "from toypkg.deep import f\n",
    },
    "a star": {"top": "from toypkg.deep import *\ndef root():\n    return f()\n"},
    "a star behind a door": {
        "top": "from toypkg import door\ndef root():\n    return door.f()\n",
        "door": "from toypkg.deep import *\n",
    },
    "getattr on a module": {"top": "from toypkg import deep\ndef root(n):\n    return getattr(deep, n)()\n"},
    "a module as a value": {"top": "from toypkg import deep\nM = [deep]\ndef root(n):\n    return M[0].f()\n"},
    "globals": {
        "top": "from toypkg.deep import f\ndef g():\n    return f()\ndef root(n):\n    return globals()[n]()\n"
    },
    "sys.modules": {
        "top": "import sys\nfrom toypkg.deep import f\ndef g():\n    return f()\n"
        "def root(n):\n    return getattr(sys.modules[__name__], n)()\n"
    },
    "eval": {"top": "from toypkg.deep import f\ndef root(n):\n    return eval(n)\n"},
    "a name for import_module": {
        "top": "from importlib import import_module\nPLACES = {'a': 'toypkg.deep:f'}\n"
        "def root(n):\n    m, _, f = PLACES[n].partition(':')\n    return getattr(import_module(m), f)()\n"
    },
    "a lazy attribute of a module": {
        "top": "from toypkg import door\ndef root():\n    return door.f()\n",
        "door": "from importlib import import_module\n"
        "def __getattr__(name):\n    return getattr(import_module('toypkg.deep'), name)\n",
    },
    "a decorator": {"top": "from toypkg.deep import f\n@f\ndef root():\n    return 1\n"},
    "a default": {"top": "from toypkg.deep import f\ndef root(x=f):\n    return x()\n"},
    "a base class": {
        "top": "from toypkg.door import T\ndef root():\n    return T()\n",
        "door": "from toypkg.deep import C\nclass T(C):\n    pass\n",
    },
    "an annotation": {"top": "from toypkg.deep import C\ndef root(c: C):\n    return c.m()\n"},
    "a quoted annotation": {"top": "from toypkg.deep import C\ndef root(c: 'C'):\n    return c.m()\n"},
    "a lambda in a constant": {
        "top": "from toypkg.deep import f\nR = {1: lambda x: f()}\ndef root(n):\n    return R[n]\n"
    },
    "a comprehension beside a variable of the same name": {
        "top": "from toypkg.deep import f\ndef root():\n    return [f for f in (1,)] + [f()]\n"
    },
    "a closure": {"top": "from toypkg.deep import f\ndef root():\n    def g():\n        return f()\n    return g\n"},
    "a method": {
        "top": "from toypkg.deep import f\nclass A:\n    f = 1\n    def m(self):\n        return f()\n"
        "def root():\n    return A()\n"
    },
    "a try with a fallback": {
        "top": "try:\n    from toypkg.deep import f\nexcept ImportError:\n    f = None\ndef root():\n    return f()\n"
    },
    "what an import of a module runs": {"top": "import toypkg.deep\ndef root():\n    return 1\n"},
    "a registry that decorators fill": {
        "top": "import toypkg.plugin\nfrom toypkg.door import R\ndef root(n):\n    return R[n]()\n",
        "door": "R = {}\ndef register(g):\n    R[g.__name__] = g\n    return g\n",
        "plugin": "from toypkg.door import register\nfrom toypkg.deep import f\n@register\ndef g():\n    return f()\n",
    },
    "a registry that subclasses fill": {
        "top": "import toypkg.plugin\nfrom toypkg.door import B\ndef root(n):\n    return B.all[n]()\n",
        "door": "class B:\n    all = []\n    def __init_subclass__(cls):\n        B.all.append(cls)\n",
        "plugin": "from toypkg.door import B\nfrom toypkg.deep import f\n"
        "class G(B):\n    def m(self):\n        return f()\n",
    },
    "a state that another function sets": {
        "top": "from toypkg.deep import f\nS = {}\ndef fill():\n    S['f'] = f()\ndef root():\n    return S\n"
    },
    "a global": {
        "top": "from toypkg.deep import f\nS = None\ndef fill():\n    global S\n    S = f()\n"
        "def root():\n    return S\n"
    },
}
DEEP = "X = 1\ndef f():\n    return X\nclass C:\n    def m(self):\n        return X\nif X:\n    print(X)\n"


@pytest.mark.parametrize("how", FOLLOWED)
def test_names_are_followed(package, how):
    """The constant behind the name is reached, whichever way the name is come by."""
    before = package(**FOLLOWED[how], deep=DEEP)
    assert before != package(**FOLLOWED[how], deep=DEEP.replace("X = 1", "X = 2"))
    assert before == package(**FOLLOWED[how], deep=DEEP.replace("X = 1", "# one\nX = 1"))


LOCAL = {
    "a parameter": "from toypkg.deep import f\ndef root(f):\n    return f\n",
    "a variable": "from toypkg.deep import f\ndef root():\n    f = 1\n    return f\n",
    "a loop variable": "from toypkg.deep import f\ndef root():\n    for f in (1, 2):\n        print(f)\n",
    "a lambda's parameter": "from toypkg.deep import f\nroot = lambda f: f\n",
    "a variable of a comprehension": "from toypkg.deep import f\ndef root():\n    return [f for f in (1, 2)]\n",
    "a walrus": "from toypkg.deep import f\ndef root():\n    return (f := 1) + f\n",
    "an exception": "from toypkg.deep import f\n"
    "def root():\n    try:\n        pass\n    except OSError as f:\n        return f\n",
    "an attribute of something else": "from toypkg.deep import f\ndef root(x):\n    return x.f\n",
    "a pattern": "from toypkg.deep import f\ndef root(x):\n    match x:\n        case [f, *_]:\n            return f\n",
}


@pytest.mark.parametrize("what", LOCAL)
def test_a_local_name_is_not_the_modules(package, what):
    """Nodes take parameters named after other nodes of their module."""
    quiet = DEEP.partition("if X")[0]
    assert "toypkg.deep" not in package(top=LOCAL[what], deep=quiet)


def test_circles_end(package):
    found = package(
        top="from toypkg import loop\ndef root():\n    return loop.g()\n",
        loop="from toypkg import top\ndef g():\n    return top.root()\n",
    )
    assert names(found) == {"toypkg.top:root", "toypkg.loop:g"}


def test_an_entry_of_a_registry_that_stands_apart_does_not_count(package):
    door = (
        "from importlib import import_module\nR = {'a': 'toypkg.deep:f'}\ndef get(n):\n    return import_module(R[n])\n"
    )
    top = "from toypkg.door import get\ndef root(n):\n    return get(n)\n"
    found = package(apart=["door:R"], top=top, door=door, deep=DEEP)
    assert names(found) == {"toypkg.top:root", "toypkg.door:get"}
    assert found == package(apart=["door:R"], top=top, door=door.replace("'a'", "'b'"), deep=DEEP)


def test_a_bare_module_is_all_of_its_definitions(package):
    found = package(root="top", top=BASE)
    assert names(found) == {f"toypkg.top:{name}" for name in ("LIMIT", "helper", "Thing", "root")}


@pytest.mark.parametrize("root", ["no_such_module", "utils.no_such", "utils.geo:no_such", "", "utils.geo:"])
def test_what_does_not_exist_is_refused(root):
    if root == "utils.geo:":
        assert stage_code([root])
        return
    with pytest.raises(ConfigError, match="no "):
        stage_code([root])


def test_code_that_is_no_python_is_refused(package):
    with pytest.raises(ConfigError, match="cannot be read"):
        package(top="def root(:\n")


def test_nothing_is_imported_to_find_out(package):
    assert names(package(top="raise SystemExit\ndef root():\n    return 1\n")) == {
        "toypkg.top:root",
        "toypkg.top:<module>",
    }


def test_an_unrelated_function_of_a_shared_module_changes_nothing():
    """``utils.geo`` is in every stage."""
    code = CodeBase()
    root = "dataflows.s2_indexing:chip_cells"
    before = code.reached([root])
    source = code.source("utils.geo")
    assert "s2_cells" in before["utils.cells"]
    assert code.with_source("utils.geo", source + "\n\ndef unrelated():\n    return 1\n").reached([root]) == before
    cells = code.source("utils.cells")
    changed = cells.replace("def s2_cells(", "def s2_cells(*_nothing, ")
    assert changed != cells
    assert code.with_source("utils.cells", changed).reached([root]) != before
