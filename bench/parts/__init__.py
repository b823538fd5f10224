"""What is measured: each part returns lines of the table."""
