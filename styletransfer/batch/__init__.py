"""Many images: the jobs, the workers that run them, and a page that shows the results.

May import video and what is below it.
"""
