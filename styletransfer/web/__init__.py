"""A web page that shows an image while it is optimized (extra `ui`).

`watching` is a run that streams previews, independent of the page; `form` makes controls of the fields of `Options`;
`layout` puts them on a page, and `server` serves it.
"""
