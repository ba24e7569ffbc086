"""Networks whose truth is known: how they are trained, and what is hidden in them."""
