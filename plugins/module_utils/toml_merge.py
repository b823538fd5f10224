# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Merge managed keys into a TOML file that belongs to somebody else, and take them out again.

Runs on the controller only. tomlkit reads and judges; the text is changed by the smallest edits
that do it (``toml_layout``), since tomlkit's own editing moves comments and keys between tables.
Every result is read back and compared with what it ought to hold before anyone gets to see it.

A managed text may hold two instructions, which are never written:

- ``ownmetal_absent``, an array of paths (arrays of keys): keys that must not stand beside the managed ones.
- ``ownmetal_retired``, an array of tables: keys that their reader does not take (``path``, where ``*`` is any key; ``only`` with
  this value) become comments below a line that says ``why``, and what stood there is written at ``to`` where that is given. With
  ``becomes`` the key stays, with that value; ``beside`` is a path without which nothing of this is done.
  Merging again, or taking the managed keys out, brings them back first.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tomlkit
from tomlkit.exceptions import ConvertError, ParseError, TOMLKitError

from .errors import Refused
from .toml_layout import COMMENTED, NOTED, REASON, Layout, Path

BECAME = " -> "  # in a note, between what a key was and what it is now
ABSENT = "ownmetal_absent"
RETIRED = "ownmetal_retired"

_BOM = "\ufeff"
_MISSING = object()

# One edit: the path, and the value it gets; _MISSING takes the key away.
Edit = tuple[Path, Any]


def merge_toml(existing: str, managed: str, where: str = "config.toml", previous: str = "", original: str = "") -> str:
    """Return ``existing`` with every key of ``managed`` in it.

    Managed keys win one by one; all else of ``existing`` stays as it is, to the byte. An empty
    ``existing`` becomes ``managed``, comments included. ``where`` names the file in a refusal.
    Of ``previous``, which was merged before, what is not managed any more goes, or back to what it
    was in ``original``, the file before the first merge.
    Raises Refused when ``existing`` is no TOML.
    """
    wanted, absent, retired = _managed(managed, where)
    if not existing.strip(_BOM + " \t\r\n"):
        return Layout(managed).delete((ABSENT,)).delete((RETIRED,)).text.lstrip("\n") if absent or retired else managed
    if previous:
        existing = _without_stale(existing, previous, (wanted, retired), original, where)
    existing = _retire(_restore(existing, where), retired, wanted, where)
    data = _parse(existing, where)
    edits: list[Edit] = [(path, _MISSING) for path in absent if _get(data, path) is not _MISSING]
    edits += [(path, value) for path, value in _leaves(wanted) if not _same(_get(data, path), value)]
    return _edit(existing, data, edits, where)


def unmerge_toml(existing: str, managed: str, original: str, where: str = "config.toml") -> str:
    """Return ``existing`` without the keys of ``managed``, for uninstalling.

    A managed key that still has the managed value goes back to the value in ``original`` (the file
    before the first merge, or ``''``), or away where it had none; one that has another value by now
    is the user's and stays. Returns ``''`` when nothing is left. Raises Refused when ``existing``
    or ``original`` is no TOML.
    """
    if existing == merge_toml(original, managed, where):
        return original
    wanted, absent, retired = _managed(managed, where)
    existing = _unmoved(_restore(existing, where), retired, where)
    data, before = _parse(existing, where), _parse(original, f"{where}, its backup")
    edits = list(_taken_back(data, before, _leaves(wanted)))
    for path in absent:
        if _get(data, path) is _MISSING:
            edits += _leaves_of(_get(before, path), path)
    text = _edit(existing, data, edits + _emptied(_apply(data, edits), before, wanted), where)
    text = text if original.strip() else _without_heading(text, managed)
    return text if text.strip(_BOM + " \t\r\n") else ""


def dump_toml(data: Mapping[str, Any]) -> str:
    """Return a mapping as TOML, one key a line, tables after their table's own keys; keys that are None are left out.

    Raises Refused for a value that TOML has no kind for.
    """
    return "\n".join(_dump(data, ())).lstrip("\n") + "\n"


def _dump(data: Mapping[str, Any], path: Path) -> Iterator[str]:
    tables = {str(key): value for key, value in data.items() if isinstance(value, Mapping)}
    pairs = {str(key): value for key, value in data.items() if key not in tables and value is not None}
    if path and (pairs or not tables):
        yield f"\n[{Layout.key(path)}]"
    for key, value in pairs.items():
        try:
            yield f"{Layout.key((key,))} = {_literal(value)}"
        except ConvertError:
            where = ".".join((*path, key))
            raise Refused(where, f"TOML has no kind for {value!r}.", "Write text, numbers, true, false, lists and mappings.") from None
    for key, value in tables.items():
        yield from _dump(value, (*path, key))


def _managed(managed: str, where: str) -> tuple[dict[str, Any], list[Path], list[dict[str, Any]]]:
    """Return the managed keys, the paths that must be absent, and what is retired."""
    wanted = _parse(managed, f"{where}, the managed part")
    return wanted, [tuple(path) for path in wanted.pop(ABSENT, [])], wanted.pop(RETIRED, [])


def _taken_back(data: dict[str, Any], before: dict[str, Any], managed: Iterable[Edit]) -> Iterator[Edit]:
    """Yield the edits that take managed keys back which still have the managed value: to what they were before, or away."""
    for path, value in managed:
        was = _get(before, path)
        if _same(_get(data, path), value) and not _same(was, value):
            if isinstance(was, dict):
                yield (path, _MISSING)
                yield from _leaves_of(was, path)
            else:
                yield (path, was)


def _without_stale(text: str, previous: str, now: tuple[dict[str, Any], list[dict[str, Any]]], original: str, where: str) -> str:
    """Return ``text`` without what was managed before, and is not any more; ``now`` are the managed keys and what is retired."""
    were, _absent, retired = _managed(previous, where)
    managed = {path for path, _value in _leaves(now[0])}
    still = [row["to"] for row in now[1] if "to" in row]
    text = _unmoved(_restore(text, where), [row for row in retired if row.get("to") not in still], where)
    data, before = _parse(text, where), _parse(original, f"{where}, its backup")
    edits = list(_taken_back(data, before, [(path, value) for path, value in _leaves(were) if path not in managed]))
    return _edit(text, data, edits + _emptied(_apply(data, edits), before, were), where)


def _retire(text: str, retired: list[dict[str, Any]], wanted: dict[str, Any], where: str) -> str:
    """Return ``text`` with what is retired, and not managed, turned into comments, and written where it has to stand now."""
    for row in retired:
        data = _parse(text, where)
        for path in _matching(data, tuple(row["path"])):
            value = _get(data, path)
            if _get(wanted, path) is not _MISSING or ("only" in row and not _same(value, row["only"])):
                continue
            if "beside" in row and _get(data, tuple(row["beside"])) is _MISSING:
                continue
            right = _with(data, path, row.get("becomes", _MISSING))
            bom = _BOM if text.startswith(_BOM) else ""
            layout = Layout(text[len(bom) :])
            if "becomes" in row:
                note = _pair(path, value) + BECAME + _literal(row["becomes"])
                layout = layout.set(path, _literal(row["becomes"]), present=True).note(path, row["why"], [note])
            else:
                layout = layout.comment(path, row["why"], [_pair(*leaf) for leaf in _leaves_of(value, path)])
            if not _same(_pruned(_parse(layout.text, where)), _pruned(right)):
                raise _unsafe(where, [path])
            moved = [] if "to" not in row else [(tuple(row["to"]) + leaf, value) for leaf, value in _leaves_of(value, ())]
            text = _edit(bom + layout.text, right, [(to, value) for to, value in moved if _get(right, to) is _MISSING], where)
            data = _parse(text, where)
    return text


def _restore(text: str, where: str) -> str:
    """Return ``text`` with what was retired as it was; as it is where the user has written such a key anew since."""
    if COMMENTED not in text and NOTED not in text:
        return text
    bom = _BOM if text.startswith(_BOM) else ""
    lines = list(io.StringIO(text[len(bom) :], newline="\n"))
    restored = bom + "".join(line.removeprefix(COMMENTED) for line in lines if not line.startswith((REASON, NOTED)))
    try:
        data = _parse(restored, where)
        for line in lines:
            if line.startswith(NOTED):
                edits = list(_noted(line.removeprefix(NOTED), data, where))
                restored, data = _edit(restored, data, edits, where), _apply(data, edits)
    except Refused:
        return text
    return restored


def _noted(line: str, data: dict[str, Any], where: str) -> Iterator[Edit]:
    """Yield the edits that bring back what a note says, where the user has not written that key anew since."""
    now = _MISSING
    try:
        was = _parse(line, where)
    except Refused:
        before, _became, after = line.rpartition(BECAME)
        was, now = _parse(before, where), _parse(f"x = {after}", where)["x"]
    for path, value in _leaves(was):
        if _same(_get(data, path), now):
            yield path, value


def _unmoved(text: str, retired: list[dict[str, Any]], where: str) -> str:
    """Return ``text`` without the copies of retired keys that are the same as those."""
    data = _parse(text, where)
    moves = [(tuple(row["path"]), tuple(row["to"])) for row in retired if "to" in row]
    edits = [(new, _MISSING) for old, new in moves if _get(data, old) is not _MISSING and _same(_get(data, old), _get(data, new))]
    return _edit(text, data, edits, where)


def _matching(data: Any, pattern: Path, above: Path = ()) -> list[Path]:
    """Return the paths in ``data`` that match; ``*`` is any key."""
    if not pattern:
        return [above]
    if not isinstance(data, dict):
        return []
    keys = list(data) if pattern[0] == "*" else [key for key in data if key == pattern[0]]
    return [path for key in keys for path in _matching(data[key], pattern[1:], (*above, key))]


def _parse(text: str, where: str) -> dict[str, Any]:
    """Return the TOML text as plain data, or raise Refused with the line and column."""
    try:
        data: dict[str, Any] = tomlkit.parse(text[1:] if text.startswith(_BOM) else text).unwrap()
    except TOMLKitError as bad:
        what = str(bad).split(" at line ")[0].rstrip(".")
        place = f"line {bad.line}, column {bad.col + 1} is" if isinstance(bad, ParseError) else "it is"
        raise Refused(
            where, f"{place} not valid TOML ({what}). The file was left untouched.", "Mend it, or move it away, and run this again."
        ) from None
    return data


def _edit(text: str, data: dict[str, Any], edits: list[Edit], where: str) -> str:
    """Return ``text``, which holds ``data``, after the edits; raise Refused rather than be wrong."""
    if not edits:
        return text
    bom = _BOM if text.startswith(_BOM) else ""
    try:
        layout = Layout(text[len(bom) :])
        for path, value in edits:
            layout = layout.delete(path) if value is _MISSING else _set(layout, path, value)
        right = _same(_pruned(_parse(layout.text, where)), _pruned(_apply(data, edits)))
    except Refused:  # what we made of it is no TOML
        right = False
    if not right:
        raise _unsafe(where, [path for path, _value in edits])
    return bom + layout.text


def _unsafe(where: str, paths: list[Path]) -> Refused:
    return Refused(
        where,
        f"its layout does not let {', '.join(map('.'.join, paths))} be changed safely. The file was left untouched.",
        "Write those keys as plain [tables] with one key a line, or move the file away, and run this again.",
    )


def _set(layout: Layout, path: Path, value: Any) -> Layout:
    """Set one key, after clearing away a value that stands where a table must be."""
    data = _parse(layout.text, "")
    for length in range(1, len(path)):
        if not isinstance(_get(data, path[:length], {}), dict):
            layout = layout.delete(path[:length])
    return layout.set(path, _literal(value), present=_get(data, path) is not _MISSING)


def _emptied(result: dict[str, Any], before: dict[str, Any], wanted: dict[str, Any]) -> list[Edit]:
    """Return the edits that clear away the tables of ``wanted`` which ``result`` has left empty."""
    edits: list[Edit] = []
    tables = {path[:length] for path, _value in _leaves(wanted) for length in range(1, len(path))}
    for path in sorted(tables, key=len, reverse=True):
        was = _get(before, path)
        if _get(result, path) == {} and was != {}:
            edits.append((path, _MISSING if isinstance(was, dict) else was))
            result = _apply(result, edits[-1:])
    return edits


def _without_heading(text: str, managed: str) -> str:
    """Return ``text`` without the comment that ``managed`` begins with."""
    heading = "".join(itertools.takewhile(lambda line: line.startswith("#"), managed.splitlines(keepends=True)))
    return text[len(heading) :].lstrip("\n") if heading and text.startswith(heading) else text


def _apply(data: dict[str, Any], edits: list[Edit]) -> dict[str, Any]:
    """Return ``data`` after the edits: what the edited text must hold."""
    for path, value in edits:
        data = _with(data, path, value)
    return data


def _with(data: Any, path: Path, value: Any) -> dict[str, Any]:
    """Return ``data`` with one edit made; a value that stands where a table must be gives way."""
    changed = dict(data) if isinstance(data, dict) else {}
    key, rest = path[0], path[1:]
    if rest:
        if value is not _MISSING or isinstance(changed.get(key), dict):
            changed[key] = _with(changed.get(key), rest, value)
    elif value is _MISSING:
        changed.pop(key, None)
    else:
        changed[key] = value
    return changed


def _leaves(data: dict[str, Any], prefix: Path = ()) -> Iterator[Edit]:
    """Yield the path and the value of everything in ``data`` that is no table."""
    for key, value in data.items():
        yield from _leaves_of(value, (*prefix, key))


def _leaves_of(value: Any, path: Path) -> Iterator[Edit]:
    """Yield ``value`` itself, or what is in it when it is a table; nothing when it is missing."""
    if isinstance(value, dict):
        yield from _leaves(value, path)
    elif value is not _MISSING:
        yield path, value


def _get(data: Any, path: Path, default: Any = _MISSING) -> Any:
    """Return what stands at ``path``, or ``default``."""
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return default
        data = data[key]
    return data


def _pruned(data: Any) -> Any:
    """Return ``data`` without its empty tables: they come and go with the way a table is written."""
    if not isinstance(data, dict):
        return data
    pruned = {key: _pruned(value) for key, value in data.items()}
    return {key: value for key, value in pruned.items() if value != {}}


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same TOML: 1, 1.0 and true are three things, nan is nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def _pair(path: Path, value: Any) -> str:
    """Return a key of the document's root with its value."""
    return f"{Layout.key(path)} = {_literal(value)}"


def _literal(value: Any) -> str:
    """Return the value as TOML on one line."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{Layout.key((str(key),))} = {_literal(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    return str(tomlkit.item(value).as_string())
