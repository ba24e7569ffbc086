"""One file = one thing that a user asks for."""
