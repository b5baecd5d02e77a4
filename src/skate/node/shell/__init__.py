"""What of the node daemon touches the world: sockets, processes, clocks, files."""
