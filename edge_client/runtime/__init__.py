"""What makes the edge's decisions happen: one task per driver, and the ports it needs from the world."""
