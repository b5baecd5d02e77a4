"""``skate demo``: an inverted index over Python's own standard library."""
