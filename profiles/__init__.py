"""The session that joins everything: command line, IPython profile, ready-made profiles."""
