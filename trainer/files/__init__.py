"""What a run leaves on the disk, complete or absent: checkpoints, weights, the result in the forms others read."""
