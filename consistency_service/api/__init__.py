"""HTTP to runtime calls and back: FastAPI and pydantic live here and nowhere else."""
