"""List the integrations that there are; `new NAME` begins one of your own."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from gateway.cli import common, show
from gateway.loader import CUSTOM_DIR


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "new"), default="list", help="default: list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="new: what it is called, such as acme_siren")
    parser.add_argument(
        "--dir", type=Path, metavar="FOLDER", help=f"new: where (default: {CUSTOM_DIR} beside the configuration)"
    )
    parser.add_argument("--json", action="store_true", help="list: one integration a line")


def run(args: argparse.Namespace) -> int:
    if args.action == "new":
        return _new(args)
    if args.name:
        show.fail(f"mailwire integrations lists all. To begin one, write: mailwire integrations new {args.name}", 2)
    loader = common.make_loader(common.config_path(args))
    found = [loader.find(domain) for domain in loader.manifests()]
    if args.json:
        for one in found:
            document = one.manifest.model_dump(mode="json") | {"origin": one.origin, "folder": str(one.folder)}
            print(show.json_line(document))
        return 0
    show.Table.print(
        ("TYPE", "NAME", "VERSION", "PROVIDES", "FROM"),
        [
            (
                one.manifest.domain,
                one.manifest.name,
                one.manifest.version,
                ", ".join(one.manifest.provides),
                str(one.folder) if one.origin == "custom" else one.origin,
            )
            for one in found
        ],
    )
    return 0


_CODE = '''\
"""{title}: tells every event that it is given to the log. Put what yours shall do into `deliver`."""

from gateway.api import ConfigModel, Event, Target


class Config(ConfigModel):
    """What may be set in the configuration, with defaults."""

    greeting: str = "event"


class {title}(Target):
    """One target. `self.config` is the Config above, `self.context` the door to the gateway."""

    async def start(self) -> None:
        """Raise NotReady, CredentialsRefused or Broken (all in gateway.api) when it can't begin."""

    async def deliver(self, event: Event) -> None:
        """Return when it is done; raise Retry (later), NotReady (the other side is away) or Refused (never)."""
        self.context.log.info("%s %s: %s", self.config.greeting, event["device"]["id"], event["title"])

    async def stop(self) -> None:
        """Release what `start` took."""

    def describe(self) -> str:
        return "tells events to the log"
'''


def _new(args: argparse.Namespace) -> int:
    name = args.name or ""
    if not re.fullmatch("[a-z][a-z0-9_]{0,63}", name):
        show.fail(f"{name!r} can't be an integration's name: write a-z, 0-9 and _, such as acme_siren.", 2)
    path = common.config_path(args)
    if name in common.make_loader(path).manifests():
        show.fail(
            f"There is an integration '{name}' already (`mailwire integrations` lists them). Choose another name."
        )
    folder = (args.dir or (path.parent if path else Path()) / CUSTOM_DIR) / name
    title = "".join(word.capitalize() for word in name.split("_"))
    manifest = {"domain": name, "name": title, "version": "0.1.0", "provides": ["target"]}
    try:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        (folder / "__init__.py").write_text(_CODE.format(title=title), encoding="utf-8")
    except FileExistsError:
        show.fail(f"{folder} is there already, and was left as it is.")
    except OSError as error:
        show.fail(f"{folder}: can't be made: {error.strerror}.")
    print(
        f"{folder} is a target that works: it tells events to the log. Change its __init__.py, and name it in the\n"
        f"configuration (mailwire.yaml, beside {CUSTOM_DIR}):\n\n"
        f"integrations:\n  my-{name.replace('_', '-')}: {{type: {name}}}\n\n"
        "and in a route: `to: [...]`. Then: mailwire check"
    )
    return 0
