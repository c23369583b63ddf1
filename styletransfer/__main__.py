"""`python -m styletransfer`."""

from .cli import main

main()
