"""Any torch loop, traced on the meta device as CUDA would run it: `mmq estimate --entry FILE.py:FUNCTION`."""
