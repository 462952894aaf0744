"""List profiles (what the mails of a family of devices mean), play their samples, or draft one from mails.

`list [FAMILY]` shows the families, or one with its mails and sources. `test [FOLDER]` plays the samples of a folder and
checks your own profiles. `new FILE...` drafts a profile. gateway/profiles/README.md is the format.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli import common, show
from gateway.interpret import families

if TYPE_CHECKING:
    from gateway.samples import Sample


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "test", "new"), help="what to do")
    parser.add_argument(
        "what", nargs="*", metavar="FAMILY|FOLDER|FILE", help="list: FAMILY; test: FOLDER; new: FILE..."
    )
    parser.add_argument("--name", metavar="NAME", help="new: write it as profiles/NAME.toml beside the configuration")
    parser.add_argument("--write", action="store_true", help="test: write the events of samples that have none")
    parser.add_argument("--json", action="store_true", help="list, test: one JSON object a line")


def run(args: argparse.Namespace) -> int:
    actions = {"list": _list, "test": _test, "new": _new}
    if args.action != "new" and len(args.what) > 1:
        show.fail(f"mailwire profile {args.action} takes one, not {len(args.what)}.", 2)
    return actions[args.action](args)


def _own_folder(args: argparse.Namespace) -> Path:
    path = common.config_path(args)
    return (path.parent if path else Path()) / families.OWN


def _list(args: argparse.Namespace) -> int:
    library = common.library(common.config_path(args))
    for path, why in library.broken.items():
        show.fail(f"{path}: can't be used: {why}. `mailwire profile test` says more.")
    chosen = [family for family in library.families.values() if not args.what or family.name == args.what[0]]
    if not chosen:
        from gateway.problem import nearest

        hint = nearest(args.what[0], library.families)
        show.fail(f"There is no family '{args.what[0]}'. {hint or '`mailwire profile list` lists them.'}", 2)
    described = [_described(family) for family in sorted(chosen, key=lambda one: one.name)]
    if args.json:
        for one in described:
            print(show.json_line(one))
    elif args.what:
        _print_family(described[0])
    else:
        show.Table.print(
            ("FAMILY", "GROUP", "MAILS", "FROM", "WHAT"),
            [(one["profile"], one["group"], str(len(one["mails"])), one["from"], one["title"]) for one in described],
        )
    return 0


def _described(family: families.Family) -> dict[str, Any]:
    source = family.source()
    return {
        "profile": family.name,
        "group": source["group"],
        "title": family.title,
        "manufacturer": family.manufacturer,
        "from": "built-in" if family.path.parent == families.OURS else str(family.path),
        "mails": [
            {key: mail.get(key) for key in ("name", "kind", "state", "severity", "off_after")}
            for mail in source["mail"]
        ],
        "sources": source["sources"],
    }


def _print_family(one: dict[str, Any]) -> None:
    show.facts([(key, one[key] or "") for key in ("profile", "title", "group", "manufacturer", "from")])
    for source in one["sources"]:
        show.facts([("source", source)])
    print()
    rows = [
        (mail["name"], mail["kind"], _word(mail["state"]), _word(mail["severity"] or "info"), _end(mail))
        for mail in one["mails"]
    ]
    show.Table.print(("MAIL", "KIND", "STATE", "SEVERITY", "ENDS"), rows)


def _word(rule: Any) -> str:
    return f"by {rule['field']}" if isinstance(rule, dict) else rule or ""


def _end(mail: dict[str, Any]) -> str:
    return f"after {mail['off_after']:.0f} s" if mail["off_after"] else ""


def _test(args: argparse.Namespace) -> int:
    from gateway import samples
    from gateway.profile import check_folder

    own = _own_folder(args)
    folder = Path(args.what[0]) if args.what else own
    if not folder.is_dir():
        show.fail(
            f"{folder}: there is no such folder. Samples are FOLDER/FAMILY/NAME.eml with NAME.json beside each.", 2
        )
    problems = check_folder(own)
    for problem in problems:
        print(problem)
    library = common.library(common.config_path(args))
    count = wrong = 0
    try:
        for sample in samples.samples(folder):
            count += 1
            event = sample.event(library)
            if "event" not in sample.told and args.write:
                _write(sample, event)
            found = samples.differences(sample.told["event"], event) if "event" in sample.told else [_NO_EVENT]
            wrong += bool(found)
            _tell(sample, event, found, as_json=args.json)
    except (ValueError, OSError) as error:
        show.fail(str(error))
    if not args.json:
        print(f"{show.number(count, 'sample')}, {wrong or 'none'} with another event than expected.")
    return 1 if wrong or problems else 0


_NO_EVENT = "no event is expected beside it: --write writes this one, read it then"


def _tell(sample: Sample, event: dict[str, Any], found: list[str], *, as_json: bool) -> None:
    name = f"{sample.family}/{sample.path.stem}"
    if as_json:
        print(show.json_line({"sample": name, "ok": not found, "differences": found, "event": event}))
        return
    print(show.plain(f"{'ok  ' if not found else 'FAIL'}  {name}"))
    for line in found:
        print(show.plain(f"      {line}"))


def _write(sample: Sample, event: dict[str, Any]) -> None:
    sample.told.update(event=event)
    for key in ("about", "source", "provenance"):
        sample.told.setdefault(key, "")
    text = json.dumps(sample.told, indent=2, ensure_ascii=False) + "\n"
    sample.path.with_suffix(".json").write_text(text, encoding="utf-8")


def _new(args: argparse.Namespace) -> int:
    from gateway.profile_draft import draft

    if not args.what:
        show.fail("Which mails? Write: mailwire profile new FILE.eml...", 2)
    mails = []
    for name in args.what:
        try:
            mails.append((Path(name).name, Path(name).read_bytes()))
        except OSError as error:
            show.fail(f"{name}: can't be read: {error.strerror}.", 2)
    try:
        text = draft(mails)
    except ValueError as error:
        show.fail(f"{error}.")
    if not args.name:
        print(show.plain(text, keep="\n"), end="")
        return 0
    if not re.fullmatch("[a-z][a-z0-9_]{0,34}", args.name) or args.name == families.GENERIC:
        show.fail(f"{args.name!r} can't be a profile's name: write a-z, 0-9 and _, such as acme_siren.", 2)
    path = _own_folder(args) / f"{args.name}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        show.fail(f"{path} is there already, and was left as it is.")
    except OSError as error:
        show.fail(f"{path}: can't be written: {error.strerror}.")
    print(f"{path} is a draft that knows these mails. Read it, name its fields, then: mailwire explain {args.what[0]}")
    return 0
