"""The command ``skate``: a module for each command, with what it prints."""
