"""A web page that shows an image while it is optimized (extra `ui`).

`studio` has the open tabs and what is made for them, `jobs` makes it and `form` describes the options, all of them
independent of a browser; `app` are the routes, `server` serves them, and `static` is the page itself.
"""
