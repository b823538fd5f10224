"""What the project's speed is measured with: see docs/speed.md."""
