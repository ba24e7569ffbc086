"""One file = one method; one folder = one question, with one signature and one frozen result."""
