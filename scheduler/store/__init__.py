"""The truth: tables, the statements on them, and the one gate through which a job changes state."""
