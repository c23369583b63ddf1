"""Run a worker: `python -m styletransfer.batch`."""

from .workers import serve

serve()
