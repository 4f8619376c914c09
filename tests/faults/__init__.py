"""What goes wrong around the client, on purpose: lost connections, crashes, interrupts, crowds, forks, poolers, bad input."""
