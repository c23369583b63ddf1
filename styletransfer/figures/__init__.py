"""Figures of several pictures, and of what the network sees: sheets, curves, feature maps, dreams.

May import painting and what is below it.
"""
