"""How sessions, daemons and clusters are started, found and joined."""
