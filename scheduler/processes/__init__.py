"""Processes of this host: who is alive, which lock each holds, how one is started and signalled. Knows no job."""
