"""Jobs, seeds and the run folder: everything that makes a run repeatable."""
