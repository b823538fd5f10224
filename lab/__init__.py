"""The lab: throw-away Debian hosts with a real systemd, on one Linux machine. `python3 -m lab --help`."""

import sys

if sys.version_info < (3, 11):
    sys.exit("lab: this needs Python 3.11 or newer; run it with one, as 'python3.11 -m lab ...'")
