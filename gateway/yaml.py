"""YAML files into plain data, with the line of every value. The only file that imports ruamel.yaml.

YAML 1.2: `no`, `on` and `12:30` are text, and a key is always text as it was written. Four tags reach outside the
file: `!secret NAME` (from `secrets.yaml` beside the first file), `!keyring NAME` (from the system's keyring), `!env
NAME`, `!include FILE` (beside the file that says so). What comes from a secret, the keyring or the environment is
remembered, so that no message ever repeats it.

Reading goes on after a mistake where that makes sense: all are collected in `Document.problems`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from gateway import keyring
from gateway.problem import Document, Place, Problem, dotted, nearest

SECRETS = "secrets.yaml"
_MAX_VALUES = 100_000  # a handful of aliases that contain each other can stand for billions
_STANDARD = "tag:yaml.org,2002:"
_TYPED = {_STANDARD + kind for kind in ("null", "bool", "int", "float")}
_TEXT = {_STANDARD + kind for kind in ("str", "timestamp")}
_TAGS = ("!secret", "!keyring", "!env", "!include")
_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])(?=%YAML)")
_HALF = ("this text has half a character, a lone surrogate", "Write the character itself")
_SYNTAX = (  # what ruamel.yaml says, what it means, what to do
    (r"found character '\\t'", "a tab can't stand here", "Indent with blanks"),
    (r"mapping values are not", "a ':' is not expected here", "Check the indentation; text with a ': ' needs quotes"),
    (r"scanning an alias|undefined alias", "text that begins with '*' needs quotes", ""),
    (r"cannot start any token", "text that begins with this character needs quotes", ""),
    (r"unknown escape character", "this '\\\\' means nothing in double quotes", "Use single quotes"),
    (r"could not find expected ':'", "a ':' is missing", "Write 'key: value'"),
    (r"expected <block end>", "this does not line up with what is above", "Indent all keys of one group alike"),
    (r"expected ',' or ('[\]}]')", r"a ',' or \1 is missing before this", ""),
    (r"found unexpected end of stream", "a quote is opened here and never closed", ""),
    (r"but found another document", "a second document begins here", "Remove the line '---'"),
)


def read(path: Path) -> Document:
    """Read a file and what it includes. Never raises for what stands in them: see `Document.problems`."""
    return _Reader(path).document


class _TooMuch(Exception):
    """The file stands for more values than a person can have written."""


@dataclass(frozen=True)
class _Source:
    """A file being read, and the files that include it."""

    path: Path
    above: tuple[Path, ...] = ()


class _Reader:
    """`as_text`: a file of secrets, where every value is text and no message repeats one."""

    def __init__(self, path: Path, as_text: bool = False) -> None:
        self.document = Document(str(path))
        self._root = path
        self._as_text = as_text
        self._values = 0
        self._open: list[Node] = []
        self._secrets: Document | None = None
        try:
            self.document.data = self._file(_Source(path), ())
        except _TooMuch:
            self._report(path, None, (), f"this stands for more than {_MAX_VALUES} values", "Use fewer aliases")
        except RecursionError:
            self._report(path, None, (), "this is nested too deeply")

    def _report(self, path: Path, line: int | None, at: Place, message: str, hint: str = "") -> None:
        self.document.problems.append(Problem(str(path), line, dotted(at), message, hint))

    def _lost(self, source: _Source, node: Node, at: Place, message: str, hint: str = "") -> None:
        """Report a value that can't be had: the None that stands for it is not to be complained of again."""
        self._report(source.path, _line(node), at, message, hint)
        self.document.unknown.add(at)

    # --- files -------------------------------------------------------------------------------------------------

    def _file(self, source: _Source, at: Place) -> Any:
        yaml = YAML(typ="safe", pure=True)
        yaml.composer.warn_double_anchors = False  # of two anchors with one name the later counts, as YAML says
        node = self._compose(yaml, source.path, at)
        return None if node is None else self._value(yaml, node, source, at)

    def _compose(self, yaml: YAML, path: Path, at: Place) -> Node | None:
        """The nodes of one file; None for an empty one, and for one that can't be read, which is reported."""
        try:
            raw = path.read_bytes()
            text = raw.decode("utf-8-sig")
            if directive := _DIRECTIVE.search(text):  # ruamel.yaml breaks on a version that it does not know
                line = text.count("\n", 0, directive.end()) + 1
                self._report(path, line, (), "a version of YAML can't be chosen", "Remove the line '%YAML ...'")
                self.document.unknown.add(at)
                return None
            node: Node | None = yaml.compose(text)
            return node
        except OSError as error:
            self._report(path, None, (), f"this file can't be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self._report(path, raw.count(b"\n", 0, error.start) + 1, (), "this is not UTF-8", "Save the file as UTF-8")
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._report(path, line, (), f"a control character (0x{error.character:02x}) can't stand here", "Remove it")
        except MarkedYAMLError as error:
            self._report(path, *_syntax(error, self._as_text))
        self.document.unknown.add(at)
        return None

    # --- values ------------------------------------------------------------------------------------------------

    def _value(self, yaml: YAML, node: Node, source: _Source, at: Place) -> Any:
        self.document.marks.setdefault(at, (str(source.path), _line(node)))
        self._values += 1
        if self._values > _MAX_VALUES:
            raise _TooMuch
        if node in self._open:
            return self._lost(source, node, at, "this contains itself")
        if isinstance(node, ScalarNode) and not _is_whole(node.value):
            return self._lost(source, node, at, *_HALF)
        if self._as_text and isinstance(node, ScalarNode):
            return None if node.tag == _STANDARD + "null" else node.value
        if node.tag in _TAGS:
            return self._outside(node, source, at)
        if isinstance(node, MappingNode) and node.tag == _STANDARD + "map":
            self._open.append(node)
            pairs = self._pairs(node, source, at)
            values = {key: self._value(yaml, value, source, (*at, key)) for key, value in pairs.items()}
            self._open.pop()
            return values
        if isinstance(node, SequenceNode) and node.tag == _STANDARD + "seq":
            self._open.append(node)
            items = [self._value(yaml, item, source, (*at, number)) for number, item in enumerate(node.value)]
            self._open.pop()
            return items
        if isinstance(node, ScalarNode) and node.tag in _TEXT:
            return node.value
        if isinstance(node, ScalarNode) and node.tag in _TYPED:
            try:
                return yaml.constructor.construct_object(node)
            except (ValueError, LookupError):  # `!!int loud`, or more digits than Python reads
                return self._lost(source, node, at, "this value can't be read", "Put it in quotes if it is text")
        tag = str(node.tag).replace(_STANDARD, "!!")
        hint = nearest(tag, _TAGS) or "Put text that begins with '!' in quotes"
        return self._lost(source, node, at, f"there is no tag '{tag}'", hint)

    def _pairs(self, node: MappingNode, source: _Source, at: Place) -> dict[str, Node]:
        """The keys and values of a mapping, and below them those that it merges in with `<<`."""
        pairs: dict[str, Node] = {}
        lines: dict[str, int] = {}
        merged: list[Node] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._lost(source, key, at, "a key must be text", "A template needs quotes: '{{ ... }}'")
            elif not _is_whole(key.value):
                self._lost(source, key, at, *_HALF)
            elif key.tag == _STANDARD + "merge":
                merged += value.value if isinstance(value, SequenceNode) else [value]
            elif key.value in pairs:
                first = f"this key was already given in line {lines[key.value]}"
                self._report(source.path, _line(key), (*at, key.value), first, "Remove one of the two")
            else:
                pairs[key.value] = value
                lines[key.value] = _line(key)
                self.document.marks.setdefault((*at, key.value), (str(source.path), _line(key)))
        for other in merged:
            if isinstance(other, MappingNode) and other not in self._open:
                self._open.append(other)
                pairs = self._pairs(other, source, at) | pairs
                self._open.pop()
            else:
                self._lost(source, other, at, "'<<' needs an alias of another set of keys")
        return pairs

    # --- from outside the file ---------------------------------------------------------------------------------

    def _outside(self, node: Node, source: _Source, at: Place) -> Any:
        name = node.value if isinstance(node, ScalarNode) else ""
        if not name:
            return self._lost(source, node, at, f"{node.tag} needs a name, as in '{node.tag} broker'")
        if node.tag == "!include":
            return self._include(name, node, source, at)
        lookup = {"!env": self._environment, "!keyring": self._from_keyring, "!secret": self._secret}[str(node.tag)]
        value = lookup(name, node, source, at)
        if value is not None:
            self.document.secrets[at] = value
        return value

    def _environment(self, name: str, node: Node, source: _Source, at: Place) -> str | None:
        value = os.environ.get(name)
        if value is None:
            hint = nearest(name, os.environ) or "Set it before Mailwire starts"
            self._lost(source, node, at, f"there is no environment variable '{name}'", hint)
        return value

    def _from_keyring(self, name: str, node: Node, source: _Source, at: Place) -> str | None:
        try:
            value = keyring.get(name)
        except keyring.NoKeyring as error:
            hint = f"Use '!secret {name}' and a file {SECRETS} instead"
            self._lost(source, node, at, f"the keyring can't be asked for '{name}': {error}", hint)
            return None
        if value is None:
            hint = f"Put it there: keyring set {keyring.SERVICE} {name}"
            self._lost(source, node, at, f"there is no '{name}' in the keyring", hint)
        return value

    def _include(self, name: str, node: Node, source: _Source, at: Place) -> Any:
        path = source.path.parent / name
        above = (*source.above, source.path)
        try:
            is_there = path.is_file()
        except OSError as error:  # a folder that may not be entered, a name that is too long
            return self._lost(source, node, at, f"'{path}' can't be included: {error.strerror}")
        if not is_there:
            hint = f"Its path counts from the folder of {source.path.name}"
            return self._lost(source, node, at, f"there is no file '{path}' to include", hint)
        if any(path.samefile(other) for other in above):
            circle = " includes ".join(other.name for other in (*above, path))
            return self._lost(source, node, at, f"an include goes round in a circle: {circle}")
        return self._file(_Source(path, above), at)

    def _secret(self, name: str, node: Node, source: _Source, at: Place) -> str | None:
        path = self._root.with_name(SECRETS)
        if not path.exists():
            hint = f"Create '{path}' with a line '{name}: ...'"
            self._lost(source, node, at, f"the secret '{name}' is asked for, and there is no {SECRETS}", hint)
            return None
        if self._secrets is None:
            self._secrets = _Reader(path, as_text=True).document
            self.document.problems += self._secrets.problems
        known = self._secrets.data if isinstance(self._secrets.data, dict) else {}
        if not self._secrets.is_known((name,)):
            self.document.unknown.add(at)  # and why has just been said
        elif name not in known:
            hint = nearest(name, known) or f"Add a line '{name}: ...' to it"
            self._lost(source, node, at, f"there is no secret '{name}' in {path}", hint)
        elif not isinstance(known[name], str):
            self._lost(
                source, node, at, f"the secret '{name}' in {path} is not text", "Write it in one line, in quotes"
            )
        else:
            return str(known[name])
        return None


def _is_whole(text: str) -> bool:
    """Whether it can be written as UTF-8; `"\\uD800"` can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax(error: MarkedYAMLError, as_text: bool) -> tuple[int, Place, str, str]:
    """What is wrong, in our words; from a file of secrets never in ruamel.yaml's, which may repeat a part of it."""
    said = f"{error.context or ''} {error.problem or ''}"
    opened = "expected ':'" in said or "end of stream" in said  # the line where it began tells more
    line = (error.context_mark if opened and error.context_mark else error.problem_mark).line + 1
    for pattern, message, hint in _SYNTAX:
        match = re.search(pattern, said)
        if match:
            return line, (), match.expand(message), hint
    return line, (), "this is not valid YAML" + ("" if as_text else f": {error.problem}"), ""
