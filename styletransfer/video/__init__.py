"""Moving pictures: clips, optical flow, and frames that follow one another (extra `video`).

May import painting and what is below it.
"""
