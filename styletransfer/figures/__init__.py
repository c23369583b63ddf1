"""Figures: sheets of several images, loss curves, feature maps and dreams.

May import transfer and the packages below it.
"""
