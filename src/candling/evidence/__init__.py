"""What was measured and what may be said. No network, no file, no picture."""
