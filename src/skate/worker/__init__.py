"""Workers and drivers: user processes, each with one connection, to its node."""
