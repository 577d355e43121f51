"""The training program. Stands alone: files, signals and exit codes join it to mmq, and no import."""
