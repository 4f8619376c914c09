"""What keeps old bytes, what deletes them, and repair."""
