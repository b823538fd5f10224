"""The lab: throw-away Debian hosts with a real systemd, on one Linux machine. `python3 -m lab --help`."""
