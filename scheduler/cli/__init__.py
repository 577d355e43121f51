"""The commands, one verb a file, each imported only when it is run."""
