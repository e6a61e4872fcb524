"""The ``sparselab`` command: a file for each subcommand."""
