"""A file for each command: its options, one call of a workflow, what is printed."""
