"""What a configuration will cost, without a GPU: the trainer's own step on meta tensors, replayed."""
