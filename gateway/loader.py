"""Integrations: found by their manifests, imported only when a configuration names them.

An integration is a folder with `manifest.json` and `__init__.py`. It is looked for in this order, and the first one
found is it, broken or not:

1. `custom_integrations/<domain>/` beside the configuration file, because a person put it there on purpose. It may
   replace a built-in one; the log says so.
2. `gateway/integrations/<domain>/`.
3. an installed package with an entry point `<domain>` in the group `mailwire.integrations`, whose value is the package
   (`acme_mailwire.siren`). It can't replace a built-in one: what is pulled in by another package must not silently
   take over the mail server. The log says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.api import Integration, Service, Source, Target
from gateway.problem import Problem, dotted, explain, nearest

log = logging.getLogger(__name__)

GROUP = "mailwire.integrations"
CUSTOM_DIR = "custom_integrations"
_BUILT_IN_DIR = Path(__file__).with_name("integrations")
_BUILT_IN, _CUSTOM = "built-in", "custom"
# Built-in, but what they need is installed only for who asks for it.
_EXTRAS = ("apprise", "desktop", "imap", "webhook")
_MANIFEST = "manifest.json"
_DOMAIN = re.compile("[a-z][a-z0-9_]{0,63}")


class LoadError(Exception):
    """An integration can't be used: which file, why; `hint` says what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Manifest(BaseModel):
    """`manifest.json`. The keys are Home Assistant's where they mean the same, and `provides`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    domain: Annotated[str, Field(pattern=f"^{_DOMAIN.pattern}$")]
    name: str
    version: str
    provides: Annotated[tuple[Literal["source", "target", "service"], ...], Field(min_length=1)]
    requirements: tuple[str, ...] = ()
    """What pip must have installed (PEP 508)."""
    dependencies: tuple[str, ...] = ()
    """Domains of other integrations that must be there."""
    documentation: str = ""
    codeowners: tuple[str, ...] = ()
    iot_class: Literal[
        "assumed_state", "calculated", "cloud_polling", "cloud_push", "local_polling", "local_push", None
    ] = None


@dataclass(frozen=True)
class Found:
    """An integration that is there but not imported yet. `origin` is built-in, custom, or the package it came with."""

    manifest: Manifest
    folder: Path
    module: str
    origin: str


@dataclass(frozen=True)
class Loaded:
    """An integration that was imported and has what it must have."""

    manifest: Manifest
    config_model: type[BaseModel]
    factory: type[Integration]


class Loader:
    """`custom_dir` is the folder `custom_integrations` beside the configuration file, whether it exists or not.

    What was found and imported is kept: changed code of an integration counts from the next start on.
    """

    def __init__(self, custom_dir: Path | None = None) -> None:
        self._custom_dir = custom_dir
        self._found: dict[str, Found] = {}
        self._loaded: dict[str, Loaded] = {}

    def domains(self) -> list[str]:
        """The names of all there is, whether it works or not."""
        folders = [folder for folder in (_BUILT_IN_DIR, self._custom_dir) if folder and folder.is_dir()]
        inside = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
        installed = {point.name for point in entry_points(group=GROUP)}
        return sorted(name for name in inside | installed if _DOMAIN.fullmatch(name))

    def manifests(self) -> dict[str, Manifest]:
        """Every integration there is, by domain; one whose manifest is broken is left out, and logged."""
        good = {}
        for domain in self.domains():
            try:
                good[domain] = self.find(domain).manifest
            except LoadError as error:
                log.warning("the integration '%s' is left out: %s", domain, error)
        for point in entry_points(group=GROUP):
            if point.name in good and self._found[point.name].origin in (_BUILT_IN, _CUSTOM):
                log.warning(
                    "%s of the package %s is left out: there is another '%s'", point.value, _package(point), point.name
                )
        return good

    def find(self, domain: str) -> Found:
        """The integration of this domain. Raises LoadError."""
        if domain not in self._found:
            place = self._place(domain) if _DOMAIN.fullmatch(domain) else None
            if place is None:
                hint = nearest(domain, self.domains(), "There are")
                raise LoadError(f"there is no integration of type '{domain}'", hint)
            folder, module, origin = place
            self._found[domain] = Found(_manifest(folder, domain), folder, module, origin)
            if origin == _CUSTOM and (_BUILT_IN_DIR / domain).exists():
                log.warning("%s is used instead of the built-in integration '%s'", folder, domain)
        return self._found[domain]

    def load(self, domain: str, *, installed: bool = True) -> Loaded:
        """Import the integration of this domain, the first time. Raises LoadError.

        `installed`: of the built-in ones too, what they need must be there; to describe them they need nothing.
        """
        if domain not in self._loaded:
            found = self.find(domain)
            if found.origin != _BUILT_IN or (installed and domain in _EXTRAS):  # pip has seen to what the others need
                _check_requirements(found)
            for other in found.manifest.dependencies:
                try:
                    self.find(other)
                except LoadError as error:
                    raise LoadError(f"'{domain}' depends on '{other}': {error}", error.hint) from None
            module = self._import(found)
            self._loaded[domain] = Loaded(found.manifest, _config_model(module, found), _factory(module, found))
        return self._loaded[domain]

    def _place(self, domain: str) -> tuple[Path, str, str] | None:
        """Folder, module and origin of a domain, by the order above."""
        if self._custom_dir and (self._custom_dir / domain).is_dir():
            return self._custom_dir / domain, f"{CUSTOM_DIR}.{domain}", _CUSTOM
        if (_BUILT_IN_DIR / domain).is_dir():
            return _BUILT_IN_DIR / domain, f"gateway.integrations.{domain}", _BUILT_IN
        for point in entry_points(group=GROUP, name=domain):
            return _folder_of(point), point.module, _package(point)
        return None

    def _import(self, found: Found) -> ModuleType:
        if found.origin == _CUSTOM:
            _serve_custom(found.folder.parent)
        importlib.invalidate_caches()
        try:
            return importlib.import_module(found.module)
        except Exception as error:  # whatever its code raises: it is not ours, and the others must go on
            hint = ""
            if isinstance(error, ImportError) and found.manifest.requirements:
                hint = f"Is all there that it needs? {_pip_install(found.manifest.requirements)}"
            elif found.manifest.documentation:
                hint = f"See {found.manifest.documentation}"
            raise LoadError(
                f"'{found.manifest.domain}' can't be imported: {_one_line(error, found.folder)}", hint
            ) from error


def _manifest(folder: Path, domain: str) -> Manifest:
    path = folder / _MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"{path} can't be read: {error.strerror}", "Each integration has one") from None
    except UnicodeDecodeError:
        raise LoadError(f"{path} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise LoadError(f"{path}:{error.lineno} is not valid JSON: {error.msg}") from None
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        findings = [Problem("", None, dotted(f.at), f.message, f.hint) for f in explain(error, Manifest, data)]
        raise LoadError(f"{path}: {' '.join(map(str, findings))}".removesuffix(".")) from None
    if manifest.domain != domain:
        raise LoadError(f"{path} says the domain is '{manifest.domain}', but it is found as '{domain}'", "Use one name")
    return manifest


def _folder_of(point: EntryPoint) -> Path:
    """Where the package of an entry point lies, without importing it or what is around it."""
    first, *rest = point.module.split(".")
    spec = importlib.util.find_spec(first)
    name = first
    for part in rest:
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations) if spec else None
    if not spec or not spec.submodule_search_locations:
        raise LoadError(
            f"the entry point '{point.name}' of {_package(point)} names '{point.value}', which is no package"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _serve_custom(folder: Path) -> None:
    """Make `custom_integrations` a package whose modules are in this folder, and forget those of another one."""
    parent = sys.modules.get(CUSTOM_DIR)
    if parent is None or list(parent.__path__) != [str(folder)]:
        for name in [name for name in sys.modules if name.partition(".")[0] == CUSTOM_DIR]:
            del sys.modules[name]
        parent = sys.modules[CUSTOM_DIR] = ModuleType(CUSTOM_DIR)
        parent.__path__ = [str(folder)]


def _check_requirements(found: Found) -> None:
    """Raises LoadError for what is not installed, or in a version that won't do."""
    from packaging.requirements import InvalidRequirement, Requirement  # 15 ms that a built-in integration doesn't need

    for text in found.manifest.requirements:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            raise LoadError(
                f"{found.folder / _MANIFEST}: '{text}' is no requirement", "Write it as for pip: 'name>=1.2'"
            ) from None
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            there = ""
        if not there or not wanted.specifier.contains(there, prereleases=True):
            instead = f"but {wanted.name} {there} is installed" if there else "which is not installed"
            what = text if found.origin != _BUILT_IN else f"mailwire[{found.manifest.domain}]"
            raise LoadError(f"'{found.manifest.domain}' needs {text}, {instead}", _pip_install([what]))


def _pip_install(requirements: Iterable[str]) -> str:
    return "pip install " + " ".join(f"'{text}'" for text in requirements)


def _one_line(error: Exception, folder: Path) -> str:
    """File, line and words of an error in an integration's code."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    place = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
    return place + traceback.format_exception_only(error)[-1].strip().splitlines()[0]


def _config_model(module: ModuleType, found: Found) -> type[BaseModel]:
    model = getattr(module, "Config", None)
    hint = "It is what may be configured: class Config(api.ConfigModel)"
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        raise LoadError(f"{found.folder / '__init__.py'} has no pydantic model named 'Config'", hint)
    if "type" in model.model_fields:
        raise LoadError(
            f"{found.folder / '__init__.py'}: 'Config' has a key 'type', which is what names the integration",
            "Rename it",
        )
    return model


def _factory(module: ModuleType, found: Found) -> type[Integration]:
    file = found.folder / "__init__.py"
    classes = {
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Source | Target | Service)
        and f"{value.__module__}.".startswith(f"{module.__name__}.")
    }
    if len(classes) != 1:
        have = ", ".join(sorted(one.__name__ for one in classes)) or "none"
        raise LoadError(f"{file} must have one class that is a Source, a Target or both, or a Service, and has {have}")
    factory = classes.pop()
    kinds = {"source": Source, "target": Target, "service": Service}
    does = sorted(word for word, kind in kinds.items() if issubclass(factory, kind))
    says = sorted(set(found.manifest.provides))
    if does != says:
        message = f"{factory.__name__} in {file} is a {' and '.join(does)}, but {_MANIFEST} says {' and '.join(says)}"
        raise LoadError(message, "Make both say the same")
    return factory
