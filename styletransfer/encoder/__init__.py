"""The encoder: VGG-19's convolutions, their evaluation in tiles, and the weights.

May import options, errors and files. Import from its modules: `layers` needs no torch, which takes seconds to import.
"""
