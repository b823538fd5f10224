# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the tree: from the wanted files and what a host has, to what changes and its diff."""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from .errors import Refused
from .tree import STATES

KEYS = {
    "dest", "state", "template", "content", "vars", "target", "owner", "group", "mode",
    "validate", "secret", "merge", "original", "notes",
}  # fmt: skip
SECRET_KEY = re.compile(r"token(?!_limit)|secret|passw|authorization|api_?key|bearer", re.IGNORECASE)
SECRET_TEXT = "(a secret file: its content is not shown)\n"


@dataclass
class Wanted:
    """One entry of a tree as its role gave it, with the rendered ``text`` (None for links, directories, absent)."""

    dest: str
    state: str
    text: Optional[str]
    mode: Optional[str]
    owner: Optional[str]
    group: Optional[str]
    target: Optional[str]
    validate: Optional[list[str]]
    secret: bool
    merge: bool
    original: Optional[str]
    notes: Optional[list[str]] = None

    @property
    def in_home(self) -> bool:
        """True for a path that is written with its user's rights."""
        return self.dest.startswith("~")

    def question(self, diff: bool) -> dict[str, Any]:
        """Return the entry that asks the host what it has: the fields of :class:`.tree.Entry`."""
        digest = hashlib.sha256(self.text.encode()).hexdigest() if self.text is not None and not self.merge else None
        return {
            "dest": self.dest,
            "state": "file" if self.merge else self.state,
            "sha256": digest,
            "want_content": self.merge or (diff and not self.secret),
            "original": self.original,
            "notes": self.notes,
        }


def wanted(entry: Mapping[str, Any], render: Callable[[str, Mapping[str, Any]], str]) -> Wanted:
    """Check one entry and render its text; raise Refused for an entry that a role's author got wrong."""
    dest, state = str(entry.get("dest", "")), str(entry.get("state", "file"))
    unknown = sorted(set(entry) - KEYS)
    if unknown or not dest or state not in STATES:
        raise Refused(f"tree entry {dest or entry}", f"cannot be used: {unknown or state}.", f"It takes {', '.join(sorted(KEYS))}.")
    has_text = "template" in entry or "content" in entry
    # what was merged is known from the host's own note
    noted = state == "absent" and bool(entry.get("merge")) and bool(entry.get("notes")) and not has_text
    needs_text = state == "file" or (bool(entry.get("merge")) and not noted)
    if has_text != needs_text or ("template" in entry and "content" in entry) or (state == "link") != ("target" in entry):
        raise Refused(
            f"tree entry {dest}", f"with state {state} has the wrong keys.", "A file takes template or content, a link takes target."
        )
    text = None
    if has_text:
        text = str(entry["content"]) if "content" in entry else render(str(entry["template"]), entry.get("vars") or {})
    home = dest.startswith("~")
    sized = state in ("file", "directory")
    validate = entry.get("validate")
    return Wanted(
        dest=dest,
        state=state,
        text=text,
        mode=str(entry.get("mode", "0755" if state == "directory" else "0644")).rjust(4, "0") if sized else None,
        owner=entry.get("owner", None if home else "root") if sized else None,
        group=entry.get("group", None if home else "root") if sized else None,
        target=entry.get("target"),
        validate=shlex.split(validate) if isinstance(validate, str) else validate,
        secret=bool(entry.get("secret", False)),
        merge=bool(entry.get("merge")),
        original=entry.get("original"),
        notes=entry.get("notes"),
    )


@dataclass
class Plan:
    """What has to be written: entries for :func:`.tree.apply`, the paths as the host knows them, Ansible's diff list."""

    entries: list[dict[str, Any]]
    paths: list[str]
    diff: list[dict[str, str]]


def plan(files: Sequence[Wanted], found: Sequence[Mapping[str, Any]]) -> Plan:
    """Compare; raise Refused where a path holds something of another type or a file cannot be merged."""
    result = Plan([], [], [])
    for file, have in zip(files, found):
        _plan_one(file, have, result)
    return result


def _plan_one(file: Wanted, have: Mapping[str, Any], result: Plan) -> None:
    state, text = file.state, file.text
    if file.merge and text is None and not (have.get("notes") or [None])[0]:
        return  # nothing was merged into it
    if file.merge:
        state, text = _merged(file, have)
    exists, kind = have["exists"], have.get("type")
    if state == "absent":
        # a file that was merged into, with nothing left of it, and the copy of what it was before
        leftover = [file.original] if file.merge and have.get("original_content") is not None else []
        doomed = ([file.dest] if exists else []) + [path for path in leftover if path]
        result.entries += [{"dest": path, "state": "absent"} for path in doomed]
        result.paths += [have["path"]] if exists else []
        if exists:
            result.diff.append(_difference(file, have, _text(have.get("content")), ""))
        return
    if exists and kind != state:
        instead = "Move it away; it is not replaced unasked."
        if file.in_home and state == "directory" and kind == "link":
            instead = f"It leads to {have.get('target')}: only a folder in the home that is the user's own is followed. Move it there."
        raise Refused(have["path"], f"is a {kind}, and has to be a {state}.", instead)
    entry: dict[str, Any] = {"dest": file.dest, "state": state}
    differs = []
    if state == "link" and have.get("target") != file.target:
        differs.append("target")
        entry["target"] = file.target
    if state == "file" and text is not None and hashlib.sha256(text.encode()).hexdigest() != have.get("sha256"):
        differs.append("content")
        # when it is taken out again, what stands there is ours, and no original
        original = file.original if file.state == "file" else None
        entry.update(content=base64.b64encode(text.encode()).decode(), validate=file.validate, original=original)
        if file.state == "absent":  # what is left is as readable as it was
            entry.update({key: have.get(key) for key in (("mode",) if file.in_home else ("mode", "owner", "group"))})
    wants = {key: getattr(file, key) for key in ("mode", "owner", "group") if getattr(file, key)}
    differs += [key for key, value in wants.items() if have.get(key) != value]
    if differs:
        result.entries.append({**entry, **wants})
        result.paths.append(have["path"])
        result.diff.append(_difference(file, have, _text(have.get("content")), text or "", differs))
    if file.merge and file.state == "absent" and have.get("original_content") is not None:
        result.entries.append({"dest": file.original, "state": "absent"})


def _merged(file: Wanted, have: Mapping[str, Any]) -> tuple[str, Optional[str]]:
    from .toml_merge import merge_toml, unmerge_toml  # noqa: PLC0415 - only who merges needs tomlkit on the controller

    existing, managed = _own_text(have), _text((have.get("notes") or [None])[0]) if file.text is None else file.text
    if file.state == "file":
        previous, original = map(_text, have.get("notes") or ("", ""))
        return "file", merge_toml(existing, managed, have["path"], previous, original)
    if not have["exists"]:
        return "absent", None
    left = unmerge_toml(existing, managed, _text(have.get("original_content")), where=have["path"])
    return ("file", left) if left.strip() else ("absent", None)


def _own_text(have: Mapping[str, Any]) -> str:
    """Return what is in a file that is merged into: to guess at letters would change what is somebody's."""
    try:
        return base64.b64decode(have.get("content") or "").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(have["path"], f"is no UTF-8 text (byte {error.start + 1}), as TOML has to be.", "Save it as UTF-8.") from None


def _text(content: Optional[str]) -> str:
    return base64.b64decode(content or "").decode("utf-8", errors="replace")


def _without_secret(line: str) -> str:
    """Return a changed line of a merged file without its value, where that is somebody's, or may be a secret."""
    mark = "+#ownmetal= " if line.startswith("+#ownmetal= ") else ""
    key, equals, _value = line.removeprefix(mark).partition("=")
    theirs = line.startswith(("-", "+#ownmetal#", "+#ownmetal=")) and not line.startswith("---")
    if equals and (theirs or SECRET_KEY.search(line)):
        return f"{mark}{key}= (not shown)"
    return "- (not shown)" if line.startswith("-") and theirs and not equals and not re.match(r"-\s*(\[|#|$)", line) else line


def _difference(file: Wanted, have: Mapping[str, Any], before: str, after: str, differs: Sequence[str] = ()) -> dict[str, str]:
    if file.secret:
        before, after = (SECRET_TEXT if have["exists"] else ""), (f"{SECRET_TEXT}changed: {', '.join(differs)}\n" if differs else "")
    elif file.merge:
        # the changed lines alone: what stands around them is somebody else's, and may be a secret
        changed = difflib.unified_diff(before.splitlines(), after.splitlines(), have["path"], have["path"], lineterm="", n=0)
        return {"prepared": "\n".join(map(_without_secret, changed)) + "\n"}
    elif file.state == "link":
        before, after = f"-> {have.get('target')}\n", f"-> {file.target}\n"
    elif "content" not in differs and file.state != "absent":
        before, after = ("".join(f"{key}: {value(key)}\n" for key in differs) for value in (have.get, lambda key: getattr(file, key)))
    if not have["exists"]:
        before = ""
    return {"before_header": have["path"], "after_header": have["path"], "before": before, "after": after}
