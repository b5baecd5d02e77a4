"""The node daemon: the switch between the processes of one machine."""
