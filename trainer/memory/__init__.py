"""What a run's tensors cost on a device: counted by a driver, or by an accounting of our own."""
