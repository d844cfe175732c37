"""The `ccs` command. Its commands live in `commands`; this module only finds out whether they can be imported."""

from __future__ import annotations

import sys

EXTRA_OF = {
    "fastapi": "service",
    "obstore": "service",
    "pydantic": "service",
    "pysyncobj": "service",
    "rich": "service",
    "typer": "service",
    "uvicorn": "service",
    "yaml": "service",
    "numpy": "demo",
    "onnx": "demo",
    "onnxruntime": "demo",
    "skl2onnx": "demo",
    "sklearn": "demo",
}
"""Which extra brings which module; what is not here is a mistake of ours and may show its traceback."""


def main() -> None:
    """Run `ccs` with the arguments of this process. Ends the process with exit code 2 if an extra is not installed."""
    try:
        from consistency_service.cli.commands import app  # typer belongs to an extra
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA_OF:
            raise
        extra = EXTRA_OF[missing]
        sys.stderr.write(f"ccs needs {missing}: install it with  pip install 'edge-consistency[{extra}]'\n")
        sys.exit(2)
    app()
