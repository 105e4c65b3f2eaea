"""lmms-eval's command line, which ends with exit status 1 where an evaluation failed.

``python -m lftr.lab.evaluation.lmms --model lftr_hf ...``, with lmms-eval's own arguments.

lmms-eval prints the error of an evaluation that failed, and exits with 0. A script that runs
benchmarks would go on as if there were results.
"""

from __future__ import annotations

import sys
from typing import Any

from ....values.errors import MissingExtraError


def main() -> None:
    """Run lmms-eval, and exit with 1 if one of its evaluations raised an error.

    Raises
    ------
    MissingExtraError
        If lmms-eval is not installed.
    """
    try:
        from lmms_eval import __main__ as program
    except ModuleNotFoundError as error:
        if error.name != "lmms_eval":
            raise
        raise MissingExtraError.of("lmms-eval", "eval") from None
    evaluate, failed = program.cli_evaluate_single, 0

    def counting_failures(*args: Any) -> Any:
        nonlocal failed
        try:
            return evaluate(*args)
        except Exception:
            failed += 1
            raise

    program.cli_evaluate_single = counting_failures
    program.cli_evaluate()
    if failed:
        sys.exit(f"{failed} of lmms-eval's evaluations failed; its errors are above")


if __name__ == "__main__":
    main()
