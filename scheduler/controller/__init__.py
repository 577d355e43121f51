"""The only process that reserves memory: looks at queue and devices, decides, writes, and tells the worker."""
