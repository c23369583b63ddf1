"""Video: clips, optical flow, and frames that are consistent over time (extra `video`).

May import transfer and the packages below it.
"""
