"""Many pictures: which there are to be, who makes them, and the page that shows them.

May import painting and what is below it.
"""
