"""`python -m styletransfer.batches` is a worker: `workers.serve`."""

from .workers import serve

serve()
