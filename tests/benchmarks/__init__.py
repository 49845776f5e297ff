"""What is fast, measured against its rivals in one run."""
