#!/usr/bin/env python3
"""Tell Ansible where the lab's hosts are (an inventory script: Ansible runs it)."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
listing = subprocess.run([sys.executable, "-m", "lab", "list", "--json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
variables = {
    host["name"]: {
        "ansible_host": host["address"],
        "ansible_user": host["user"],
        "ansible_ssh_private_key_file": host["key"],
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={host['known_hosts']} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
        "ansible_python_interpreter": host["python"],
    }
    for host in json.loads(listing)
}
print(json.dumps({"all": {"hosts": list(variables)}, "_meta": {"hostvars": variables}}))
