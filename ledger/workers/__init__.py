"""Worker processes for what is pure and takes time: bytes in, bytes out, many at a time, on another core.

`pool.py` is what the process that has the work uses, `__main__.py` what a worker runs, `frames.py` what goes between;
`steps.py` is for jobs of several steps.
"""
