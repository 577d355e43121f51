"""Processes of this host: who is alive and whose child, who holds a lock, how to start or signal one. Knows no job."""
