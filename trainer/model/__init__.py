"""MiniMind's decoder in all its forms, and the loss of its head. Knows no data and no run."""
