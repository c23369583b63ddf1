"""A page in the browser on which a picture changes while it is looked at (extra `ui`).

`watching` is a run that somebody watches, and knows of no page; `form` has a control for each field of `Options`;
`layout` puts them on a page, and `server` serves it.
"""
