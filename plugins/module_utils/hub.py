# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A model hub's API: what a repository has at a revision, and where its files are. Python 3.9, standard library alone.

Sources: huggingface_hub's own requests (hf_api.py, file_download.py): /api/models/REPO/revision/REV, its tree in pages,
/REPO/resolve/REV/PATH; errors carry X-Error-Code.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .download import TRIES, HttpRefused, Source, read
from .errors import Refused
from .model_manifest import COMMIT, File, Manifest, checked
from .progress import Progress

HUB = "https://huggingface.co"
PAGES = 1000  # of a repository's files: more is a server that goes in circles
NEXT = re.compile(r"<([^>]*)>\s*;\s*rel=\"?next\"?")


@dataclass(frozen=True)
class Hub:
    """A hub or a mirror of one. The token goes to its own address alone, and is never printed."""

    url: str = HUB
    token: str = field(default="", repr=False)
    stall_seconds: float = 60
    tries: int = TRIES

    def source(self, path: str) -> Source:
        """Return where something below the hub's address is."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return Source(self.url.rstrip("/") + path, headers, tries=self.tries)

    def file(self, repository: str, revision: str, path: str) -> Source:
        """Return where a file of a revision is."""
        return self.source(f"/{repository}/resolve/{revision}/{urllib.parse.quote(path)}")

    def commit(self, repository: str, revision: str, where: str, progress: Progress) -> str:
        """Return the commit that a branch, tag or commit names. Raises Refused for what the hub does not have or give."""
        path = f"/api/models/{repository}/revision/{urllib.parse.quote(revision, safe='')}"
        found, _ = self._ask(path, repository, revision, where, progress)
        commit = str(found.get("sha", "")) if isinstance(found, dict) else ""
        if not COMMIT.fullmatch(commit):
            raise self._strange(where)
        return commit

    def manifest(self, repository: str, revision: str, where: str, progress: Progress) -> Manifest:
        """Return all files of a revision, with their digests: SHA-256 of large ones, git's of the rest. Raises Refused."""
        if self.commit(repository, revision, where, progress) != revision:
            raise Refused(where, f"{revision} is not the whole name of a commit.", "Write all 40 digits.")
        files: list[File] = []
        path = f"/api/models/{repository}/tree/{revision}?recursive=true&expand=false"
        for _ in range(PAGES):
            rows, headers = self._ask(path, repository, revision, where, progress)
            files += [self._file(row, where) for row in self._rows(rows, where) if row.get("type") == "file"]
            link = NEXT.search({name.lower(): value for name, value in headers.items()}.get("link", ""))
            if not link:
                return checked(Manifest(repository, revision, tuple(files)), where)
            parts = urllib.parse.urlsplit(link.group(1))  # a mirror hands on the original's address: its own is asked
            path = f"{parts.path[parts.path.index('/api/') :] if '/api/' in parts.path else parts.path}?{parts.query}"
        raise self._strange(where)

    def _ask(self, path: str, repository: str, revision: str, where: str, progress: Progress) -> tuple[Any, Mapping[str, str]]:
        try:
            body, headers = read(self.source(path), progress, self.stall_seconds)
            return json.loads(body), headers
        except HttpRefused as refused:
            raise self.explained(refused, repository, revision, where) from refused
        except ValueError as error:
            if isinstance(error, Refused):
                raise
            raise self._strange(where) from error

    def _rows(self, rows: Any, where: str) -> list[Mapping[str, Any]]:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._strange(where)
        return rows

    def _file(self, row: Mapping[str, Any], where: str) -> File:
        large = row.get("lfs") or {}
        try:
            return File(
                str(row["path"]), int(large.get("size", row["size"])), str(large.get("oid") or ""), "" if large else str(row["oid"])
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._strange(where) from error

    def _strange(self, where: str) -> Refused:
        return Refused(where, f"{self.source('').shown} does not answer as a model hub does.", "Is vllm_hub_url the right address?")

    def explained(self, refused: HttpRefused, repository: str, revision: str, where: str) -> Refused:
        """Return the operator's words for what the hub refuses."""
        hub, status, code = self.source("").shown, refused.status, refused.code
        if status == 403 or code == "GatedRepo":
            words = self._gated(hub, repository)
        elif status == 401 and self.token and code != "RepoNotFound":
            words = (f"{hub} does not accept vllm_hub_token.", "Write one that is valid and may read this repository.")
        elif status == 401:  # the public hub says so of what does not exist, too
            more = "with a token that may read it" if self.token else "and where it is private, set vllm_hub_token"
            words = (f"{hub} has no {repository}, or does not show it to everyone.", f"Look at the spelling, {more}.")
        elif code == "RevisionNotFound":
            command = f"ansible-playbook playbooks/lock_model.yml -e repository={repository} -e revision=main"
            words = (f"{repository} has no revision {revision}.", f"`{command}` finds the newest.")
        elif status == 404:
            words = (f"{hub} has no {repository}, or not this revision of it.", "Look at the spelling: organisation/name.")
        else:
            words = (f"{hub} answered {status}.", "Is vllm_hub_url the right address?")
        return Refused(where, *words)

    def _gated(self, hub: str, repository: str) -> tuple[str, str]:
        if not self.token:
            return f"{repository} is open only to those who asked for access.", f"Ask at {hub}/{repository}, and set vllm_hub_token."
        why = f"the account of vllm_hub_token has no access to {repository}."
        return why, f"Ask for it at {hub}/{repository}, or use another account's token."
