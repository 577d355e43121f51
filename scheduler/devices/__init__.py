"""The devices of this host behind one Protocol: CUDA GPUs, the host's memory, virtual devices."""
