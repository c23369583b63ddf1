"""The runtime: devices, precision, threads and memory, distributed processes, and the plan that fits into memory.

May import encoder.
"""
