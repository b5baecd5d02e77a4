"""What runs in every driver and worker: the one connection to its node, and the engine on it."""
