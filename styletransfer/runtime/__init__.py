"""The machine: devices, precision, threads and memory, processes that share a picture, the plan that fits into memory.

May import network.
"""
