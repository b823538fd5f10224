# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shell scripts by which Codex itself judges a configuration before it replaces anything: the validators of roles/codex.

Each is given the program, the staged file, and strict or lenient (releases without a strict validator, and keys that are known to no
upstream Codex). It ends well, or says what Codex says of the mistake. The tree puts the file's path wherever a script has a percent and s.
"""

from __future__ import annotations

from collections.abc import Sequence

# What Codex says of a mistake is JSON or a line that begins with Error, and its cause below that.
_VERDICT = r"""
command -v "$codex" >/dev/null || { echo "there is no $codex"; exit 1; }
# shellcheck disable=SC2086 - words
if [ "$kind" = lenient ]; then
  said=$(ask features list $alone) && exit 0
elif ask app-server --help | grep -q -e --print-startup-config; then
  said=$(ask app-server --strict-config --print-startup-config $alone) && exit 0
else
  said=$(ask app-server --strict-config $alone) && exit 0
fi
why=$(echo "$said" |
  sed -n 's/.*"message":"failed to load configuration: /Error: /; s/"}}$//; s/^Error: //p; /^Caused by:/{n; s/^ *//p; }' |
  sed 's/^/Codex says: /; s/[^ ]*\.ownmetal-[^/]*\///' | head -n 3)
echo "${why:-$(echo "$said" | tail -n 1)}"
exit 1
""".strip()

# Run as the user; the folder of the staged file plays Codex's home. The links are for settings that name a file relative to the home.
# A profile is judged as if there were nothing else: no validator reads one, and its provider is in another file.
_HOME = rf"""
cd "${{2%/*}}" || exit 1
kind=$3 alone=
[ "${{2##*/}}" = config.toml ] || {{ ln -s "${{2##*/}}" config.toml; alone='-c model_provider=openai'; }}
for file in ../*; do [ -e "${{file##*/}}" ] || ln -s "$file" .; done
codex=$1
case $codex in "~/"*) codex=$HOME/${{codex#??}} ;; esac
ask() {{ CODEX_HOME=$PWD "$codex" "$@" </dev/null 2>&1; }}
{_VERDICT}
""".strip()

# Run as root; $4 is the folder of the machine, $5 the user who runs Codex (a program of theirs is never root's), or empty. What is
# staged is mounted over that folder for Codex alone. Where nothing may be mounted, it is read as if it were somebody's config.toml.
_MACHINE = rf"""
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
name=${{2##*/}} kind=$3 machine=$4 alone=
folder=$(mktemp -d /var/tmp/ownmetal-codex.XXXXXX) || exit 1
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/etc" "$folder/home" && chmod 711 "$folder" && cp -R "$machine/." "$folder/etc" || exit 1
# what is there now is for the settings, or the release, of before
(cd "$folder/etc" && rm -rf config.toml requirements.toml managed_config.toml .ownmetal-*)
tab=$(printf '\t')
echo "$OWNMETAL_STAGED" | while IFS=$tab read -r place staged; do
  [ "${{place%/*}}" != "$machine" ] || cp "$staged" "$folder/etc"
done
home=$HOME
[ -z "$5" ] || {{ home=$(getent passwd "$5" | cut -d: -f6) && chown "$5" "$folder/home"; }} || exit 1
codex=$1
case $codex in "~/"*) codex=$home/${{codex#??}} ;; esac
as=${{5:+runuser -u $5 --}}
cd "$folder/home" || exit 1
mount='mount --bind "$1" "$2" && shift 2 && exec "$@"'
if unshare --mount sh -c "$mount" sh "$folder/etc" "$machine" true 2>/dev/null; then
  there() {{ unshare --mount sh -c "$mount" sh "$folder/etc" "$machine" "$@"; }}
elif [ "$name" = requirements.toml ]; then
  exit 0
else
  kind=lenient
  cp "$2" config.toml
  there() {{ "$@"; }}
fi
# shellcheck disable=SC2086 - words
ask() {{ there $as env -i HOME="$home" CODEX_HOME="$folder/home" PATH=/usr/local/bin:/usr/bin:/bin "$codex" "$@" </dev/null 2>&1; }}
{_VERDICT}
""".strip()


def in_home(program: str, kind: str) -> list[str]:
    """Return the validator of a configuration or a profile in a home."""
    return ["/bin/sh", "-c", _HOME, "sh", program, "%s", kind]


def of_machine(program: str, kind: str, folder: str, users: Sequence[str]) -> list[str]:
    """Return the validator of a file below the machine's folder; the first of the users runs Codex for it."""
    return ["/bin/sh", "-c", _MACHINE, "sh", program, "%s", kind, folder, next(iter(users), "")]
