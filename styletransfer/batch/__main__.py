"""`python -m styletransfer.batch` is a worker: `workers.serve`."""

from .workers import serve

serve()
