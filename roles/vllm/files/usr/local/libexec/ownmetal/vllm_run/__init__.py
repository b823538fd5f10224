# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the start program of vllm@NAME.service is made of. The standard library alone, any system Python from 3.9 on."""
