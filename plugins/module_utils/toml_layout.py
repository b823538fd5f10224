# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where each key of a TOML text stands, and the smallest edits that set or delete one.

The text must be valid TOML (tomlkit has read it): the scanner finds its way, it does not judge.
Written for ``toml_merge``, which also checks the outcome.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import tomlkit

Path = tuple[str, ...]
COMMENTED = "#ownmetal# "  # before each line that was turned into a comment, to come back some day
REASON = "#ownmetal: "  # before the line that says why
NOTED = "#ownmetal= "  # before a key and its value, which stood in the braces of the line below

_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'  # a multi-line string may end in two quotes of its own
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\r\n]+")  # a date and its time may have a space between them
_BLANK = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"(?:[\s,]|#[^\n]*)*")  # what may stand between the items of an array


@dataclass(frozen=True)
class Entry:
    """A header or a key with its value. Offsets count characters from the start of the text."""

    path: Path  # from the root of the document
    table: Path  # the table it is written in; for a header its own path
    header: bool
    inline: bool  # stands inside { }
    listed: bool  # stands inside an array of tables, where one path has many values
    start: int  # of the key or of the bracket
    value: int  # of the value; for a header the same as end
    end: int  # behind the value or the bracket


class Layout:
    """A TOML text and the places of its keys. Edits return a new Layout."""

    def __init__(self, text: str) -> None:
        """Scan ``text``, which is valid TOML."""
        self.text = text
        self.entries: list[Entry] = []
        self._eol = "\r\n" if "\r\n" in text else "\n"
        self._scan()

    @staticmethod
    def key(path: Path) -> str:
        """Return a path as a TOML key: dotted, and quoted where it must be."""
        parts = (part if _BARE_KEY.fullmatch(part) else tomlkit.string(part).as_string() for part in path)
        return ".".join(parts)

    def set(self, path: Path, literal: str, present: bool) -> Layout:
        """Give the key at ``path`` the value ``literal`` (TOML on one line).

        ``present`` says whether the document has something at ``path`` already.
        """
        for entry in self.entries:
            if entry.path == path and not entry.header and not entry.listed:
                return self._splice(entry.value, entry.end, literal)
        if present:  # a table, or an array of tables: many places in the text make way for one value
            return self.delete(path)._insert(path, literal)
        return self._insert(path, literal)

    def _insert(self, path: Path, literal: str) -> Layout:
        """Write a new key where its table is written; a table that is not written yet comes at the end."""
        inline = self._innermost_inline(path)
        if inline is not None:
            return self._into_inline(inline, f"{self.key(path[len(inline.path) :])} = {literal}")
        parent = path[:-1]
        before = self._last_of(parent)
        if before is not None:
            return self._line_after(before, f"{self.key(path[-1:])} = {literal}")
        dotted = self._last_dotted(parent)
        if dotted is not None:
            return self._line_after(dotted, f"{self.key(path[len(dotted.table) :])} = {literal}")
        if parent:
            return self._at_end(f"[{self.key(parent)}]{self._eol}{self.key(path[-1:])} = {literal}")
        return self._at_start(f"{self.key(path)} = {literal}")

    def delete(self, path: Path) -> Layout:
        """Take away the key or the whole table at ``path``: whole lines, the comments between them stay."""
        layout: Layout = self
        while True:
            # The last one first: keys that lost their header would belong to the table above it.
            found = [entry for entry in layout.entries if entry.path[: len(path)] == path]
            if not found:
                return layout
            layout = layout._without(found[-1])

    def comment(self, path: Path, why: str, notes: Sequence[str]) -> Layout:
        """Turn the lines of the key or the table at ``path`` into comments, below a line that says ``why``.

        What stands inside braces has no line of its own: it is deleted, and ``notes`` say above that line what it was.
        """
        within = [entry for entry in self.entries if entry.path[: len(path)] == path]
        if within and all(entry.inline for entry in within):
            return self.note(path, why, notes).delete(path)
        text, lines = self.text, set()
        for entry in self.entries:
            if entry.path[: len(path)] == path and not entry.inline:
                at = self._line_start(entry.start)
                while at < entry.end:
                    lines.add(at)
                    at = self._line_end(at)
        for at in sorted(lines, reverse=True):
            reason = f"{REASON}{why}{self._eol}" if at == min(lines) else ""
            text = f"{text[:at]}{reason}{COMMENTED}{text[at:]}"
        return Layout(text).delete(path)

    def note(self, path: Path, why: str, notes: Sequence[str]) -> Layout:
        """Write above the line of ``path`` what stands, or stood, there, below a line that says ``why``."""
        first = next(entry for entry in self.entries if entry.path[: len(path)] == path)
        line = next(entry for entry in self.entries if not entry.inline and entry.start <= first.start and first.end <= entry.end)
        at = self._line_start(line.start)
        said = (f"{REASON}{why}", *(f"{NOTED}{text}" for text in notes))
        return self._splice(at, at, "".join(f"{text}{self._eol}" for text in said))

    # -- finding ---------------------------------------------------------------------------------

    def _innermost_inline(self, path: Path) -> Optional[Entry]:
        """Return the inline table that holds, or would hold, ``path``."""
        holders = [
            entry
            for entry in self.entries
            if not entry.header and not entry.listed and entry.path == path[: len(entry.path)] and self.text[entry.value] == "{"
        ]
        return max(holders, key=lambda entry: len(entry.path), default=None)

    def _last_of(self, table: Path) -> Optional[Entry]:
        """Return the last key written under the header of ``table``, or that header."""
        own = [entry for entry in self.entries if entry.table == table and not entry.inline and not entry.listed]
        return own[-1] if own else None

    def _last_dotted(self, table: Path) -> Optional[Entry]:
        """Return the last dotted key (``a.b.c = 1``) that makes ``table`` or, failing it, a table around it.

        A table made so cannot get a header. One that has a header of its own further in can.
        """
        for length in range(len(table), 0, -1):
            made = table[:length]
            if any(entry.header and entry.path == made for entry in self.entries):
                return None
            dotted = [
                entry
                for entry in self.entries
                if not entry.header
                and not entry.inline
                and not entry.listed
                and len(entry.table) < length < len(entry.path)
                and entry.path[:length] == made
            ]
            if dotted:
                return dotted[-1]
        return None

    # -- editing ---------------------------------------------------------------------------------

    def _splice(self, start: int, end: int, text: str) -> Layout:
        return Layout(self.text[:start] + text + self.text[end:])

    def _line_start(self, offset: int) -> int:
        return self.text.rfind("\n", 0, offset) + 1

    def _line_end(self, offset: int) -> int:
        """Return the offset behind the line's end."""
        newline = self.text.find("\n", offset)
        return len(self.text) if newline < 0 else newline + 1

    def _line_after(self, entry: Entry, line: str) -> Layout:
        start, end = self._line_start(entry.start), self._line_end(entry.end)
        indent = "" if entry.header else self.text[start : entry.start]
        gap = "" if self.text[:end].endswith("\n") else self._eol
        return self._splice(end, end, f"{gap}{indent}{line}{self._eol}")

    def _at_end(self, block: str) -> Layout:
        gap = "" if self.text.endswith("\n") or not self.text else self._eol
        blank = self._eol if self.text.strip() else ""
        return self._splice(len(self.text), len(self.text), f"{gap}{blank}{block}{self._eol}")

    def _at_start(self, line: str) -> Layout:
        """Put the first top-level key above the first header and the comment that is attached to it."""
        # a header that comes back some day counts: what stood below it would be in its table
        asleep = re.search(rf"^{COMMENTED}\[", self.text, re.MULTILINE)
        starts = [self.entries[0].start] if self.entries else []
        starts += [asleep.start()] if asleep else []
        if not starts:
            gap = "" if self.text.endswith("\n") or not self.text else self._eol
            return self._splice(len(self.text), len(self.text), f"{gap}{line}{self._eol}")
        at = self._line_start(min(starts))
        while at and self.text[self._line_start(at - 1) : at].lstrip().startswith("#"):
            at = self._line_start(at - 1)
        return self._splice(at, at, f"{line}{self._eol}{self._eol}")

    def _siblings(self, inline: Entry) -> list[Entry]:
        """Return the keys written directly in the braces of ``inline``."""
        return [entry for entry in self.entries if entry.inline and entry.table == inline.path and inline.value < entry.start < inline.end]

    def _into_inline(self, inline: Entry, pair: str) -> Layout:
        siblings = self._siblings(inline)
        if siblings:
            return self._splice(siblings[-1].end, siblings[-1].end, f", {pair}")
        return self._splice(inline.value, inline.end, f"{{ {pair} }}")

    def _without(self, entry: Entry) -> Layout:
        """Take one entry away: out of its braces, or the lines it stands on."""
        if not entry.inline:
            return self._without_lines(self._line_start(entry.start), self._line_end(entry.end))
        holders = (other for other in self.entries if other.value < entry.start and entry.end <= other.end)
        holder = min(holders, key=lambda other: other.end - other.start)
        siblings = self._siblings(holder)
        at = siblings.index(entry)
        if at + 1 < len(siblings):
            return self._splice(entry.start, siblings[at + 1].start, "")
        if at:
            return self._splice(siblings[at - 1].end, entry.end, "")
        return self._splice(holder.value, holder.end, "{}")

    def _without_lines(self, start: int, end: int) -> Layout:
        """Take whole lines away, and one of two blank lines that would come to stand together."""
        head, tail = self.text[:start], self.text[end:]
        if head.endswith(("\n\n", "\n\r\n")) and (not tail or tail.startswith(("\n", "\r\n"))):
            head = head[: -len(self._eol)]
        return Layout(head + tail)

    # -- scanning --------------------------------------------------------------------------------

    def _scan(self) -> None:
        text, at = self.text, 0
        table: Path = ()
        arrays: set[Path] = set()
        listed = False
        while True:
            at = _end(_BETWEEN, text, at)
            if at >= len(text):
                return
            if text[at] != "[":
                at = self._pair(at, table, inline=False, listed=listed)
                continue
            start, depth = at, 2 if text.startswith("[[", at) else 1
            table, at = self._key(at + depth)
            at += depth
            if depth == 2:
                arrays.add(table)
            listed = any(table[:length] in arrays for length in range(1, len(table) + 1))
            self.entries.append(Entry(table, table, True, False, listed, start, at, at))

    def _pair(self, at: int, table: Optional[Path], inline: bool, listed: bool) -> int:
        """Note ``key = value`` at ``at`` and return the offset behind it; without a table note nothing."""
        start = at
        key, at = self._key(at)
        value = _end(_BLANK, self.text, at + 1)
        if table is None:
            return self._value(value, None, listed)
        place = len(self.entries)
        path = (*table, *key)
        end = self._value(value, path, listed)
        self.entries.insert(place, Entry(path, table, False, inline, listed, start, value, end))
        return end

    def _key(self, at: int) -> tuple[Path, int]:
        """Return the key at ``at``, and the offset of the ``=`` or ``]`` that ends it."""
        parts = []
        while True:
            at = _end(_BLANK, self.text, at)
            quoted = self.text[at] in "\"'"
            end = _end(_STRING if quoted else _BARE_KEY, self.text, at)
            part = self.text[at:end]
            parts.append(str(tomlkit.value(part)) if quoted else part)
            at = _end(_BLANK, self.text, end)
            if self.text[at] != ".":
                return tuple(parts), at
            at += 1

    def _value(self, at: int, path: Optional[Path], listed: bool) -> int:
        """Return the offset behind the value at ``at``; keys of an inline table at ``path`` are noted."""
        text, opening = self.text, self.text[at]
        if opening in "\"'":
            return _end(_STRING, text, at)
        if opening not in "[{":
            end = _end(_BARE_VALUE, text, at)
            return at + len(text[at:end].rstrip())
        at = _end(_BETWEEN, text, at + 1)
        while text[at] not in "]}":
            # inside an array one path has many values: nothing there has a place
            at = self._value(at, None, listed) if opening == "[" else self._pair(at, path, inline=True, listed=listed)
            at = _end(_BETWEEN, text, at)
        return at + 1


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return the offset behind the match at ``at``, which the TOML being valid must be there."""
    match = pattern.match(text, at)
    if match is None:
        raise ValueError(f"no {pattern.pattern} at {at}: the text is not the valid TOML that was promised")
    return match.end()
