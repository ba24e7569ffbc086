"""The bases in which something is hidden."""
