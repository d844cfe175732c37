"""What the cluster decides: synchronous, clockless, free of I/O. Inputs are verbs, outputs are effects."""
