"""
`chatformer evaluate` for several processes.

    accelerate launch -m chatformer.cli.evaluate runs/korean
"""

import sys

from chatformer.storage.printing import print_in_any_encoding

from .main import VERBS, run

if __name__ == "__main__":
    print_in_any_encoding()
    sys.exit(run(VERBS["evaluate"], sys.argv[1:], program="python -m chatformer.cli.evaluate"))
